//! The text of an answer that is vectors (0026): for each a line of base64 of its little-endian 32-bit floats. Its bytes are what a
//! response digest commits to, so there is one form and no other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most bytes of all lines of one answer: whoever ends it sends them once more, in one message.
pub const VECTORS_BYTES_MAX: usize = 6 << 20;
/// Most bytes of one line: the widest model that is read needs 349,528.
pub const VECTOR_BYTES_MAX: usize = 512 << 10;

const FLOAT: usize = 4;

/// Bytes of the line of a vector of so many elements.
pub fn vector_line_bytes(elements: usize) -> usize {
    elements
        .saturating_mul(FLOAT)
        .div_ceil(3)
        .saturating_mul(4)
        .saturating_add(1)
}

/// The line of a vector, given as little-endian 32-bit floats.
pub fn vector_line(floats: &[u8]) -> String {
    let mut line = STANDARD.encode(floats);
    line.push('\n');
    line
}

/// The vectors of whole lines, each element as the bits of its float; `None` where a line is no vector: empty, not in the one form of
/// base64, or with an element that is no finite number.
pub fn read_vectors(text: &str) -> Option<Vec<Vec<u32>>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.strip_suffix('\n')?
        .split('\n')
        .map(read_vector)
        .collect()
}

fn read_vector(line: &str) -> Option<Vec<u32>> {
    let bytes = STANDARD.decode(line).ok()?;
    let (floats, rest) = bytes.as_chunks::<FLOAT>();
    let bits: Vec<u32> = floats.iter().map(|f| u32::from_le_bytes(*f)).collect();
    // All ones in the exponent: an infinity or no number.
    let finite = bits.iter().all(|b| b >> 23 & 0xff != 0xff);
    (rest.is_empty() && !bits.is_empty() && finite).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_vector_is_not_read() {
        let one = vector_line(&1.0f32.to_le_bytes());
        assert_eq!(one, "AACAPw==\n");
        assert_eq!(read_vectors(""), Some(Vec::new()));
        let two = read_vectors(&one.repeat(2));
        assert_eq!(two, Some(vec![vec![1.0f32.to_bits()]; 2]));
        let bad = [
            "AACAPw==",     // No line end.
            "\n",           // No element.
            "AACAPw==\n\n", // The second has none.
            "AACAPw==\r\n",
            " AACAPw==\n",
            "AACAPw=\n",  // Padding.
            "AACAPx==\n", // Another spelling of the same bytes.
            "AACAP_==\n", // Another alphabet.
            "AACA\n",     // Three bytes.
            "AACAfw==\n", // Infinity.
            "AADA/w==\n", // No number.
        ];
        for text in bad {
            assert_eq!(read_vectors(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_vector_is_read_from_its_line(vectors in proptest::collection::vec(proptest::collection::vec(-1.0f32..1.0, 1..9), 0..5)) {
            let bytes = |v: &Vec<f32>| v.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>();
            let text: String = vectors.iter().map(|v| vector_line(&bytes(v))).collect();
            prop_assert_eq!(text.len(), vectors.iter().map(|v| vector_line_bytes(v.len())).sum::<usize>());
            let bits = |v: &Vec<f32>| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(read_vectors(&text), Some(vectors.iter().map(bits).collect()));
        }
    }
}
