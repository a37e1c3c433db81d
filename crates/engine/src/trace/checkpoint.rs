//! Checkpoints: a short digest of the state that each token was chosen from, made while serving where somebody asks for it. Auditors who
//! compute the answer again see from them where it first parts, without a trace.

use blake3::Hasher;

/// BLAKE3 of a residual after the last layer, each number as 4 bytes, big-endian.
pub fn checkpoint(residual: &[i32]) -> [u8; 32] {
    let (mut hasher, mut bytes) = (Hasher::new(), [0; 4 * PIECE]);
    for piece in residual.chunks(PIECE) {
        let (taken, _) = bytes.as_chunks_mut::<4>();
        for (to, number) in taken.iter_mut().zip(piece) {
            *to = number.to_be_bytes();
        }
        hasher.update(&bytes[..4 * piece.len()]);
    }
    *hasher.finalize().as_bytes()
}

/// One digest for all checkpoints of an answer: BLAKE3 of them, one after the other.
pub fn checkpoint_of_all(checkpoints: &[[u8; 32]]) -> [u8; 32] {
    *blake3::hash(checkpoints.as_flattened()).as_bytes()
}

/// Numbers that are turned into bytes together.
const PIECE: usize = 1_024;
