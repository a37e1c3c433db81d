#!/bin/sh
# Builds the engine's tests for 64-bit ARM with Debian's cross compilers and runs them in an emulator (qemu-user): the kernels' own tests, all
# golden vectors, and the tests that compare kernels on many shapes and sequences.
#
# usage: tests/arm/run.sh FOLDER    (about 1 GB: packages are unpacked there, nothing is installed; needs `dpkg --add-architecture arm64`
#                                    and `apt-get update` once, as root)
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
project=$(cd "$(dirname "$0")/../.." && pwd)
root=$folder/root
target=aarch64-unknown-linux-gnu

if [ ! -x "$root/usr/bin/rustc" ]; then
    mkdir -p "$root"
    cd "$folder"
    std=$(apt-cache depends libstd-rust-web-dev | sed -n 's/.*Depends: \(libstd-rust-web-[0-9].*\)/\1/p' | head -1)
    llvm=$(apt-cache depends "$std" | sed -n 's/.*Depends: \(libllvm.*\)/\1/p' | head -1)
    apt-get download rustc-web libstd-rust-web-dev libstd-rust-web-dev:arm64 "$std" "$std:arm64" "$llvm" qemu-user libcapstone4 \
        gcc-12-aarch64-linux-gnu cpp-12-aarch64-linux-gnu binutils-aarch64-linux-gnu libgcc-12-dev-arm64-cross libgcc-s1-arm64-cross \
        libc6-arm64-cross libc6-dev-arm64-cross linux-libc-dev-arm64-cross
    for package in *.deb; do dpkg -x "$package" "$root"; done
    rm ./*.deb
fi

# The compilers look for their parts where they would have been installed.
libraries=$root/usr/lib/x86_64-linux-gnu
wrap() {
    printf '#!/bin/sh\nexport LD_LIBRARY_PATH=%s\nexport PATH=%s:$PATH\nexec %s "$@"\n' "$libraries" "$root/usr/bin" "$2" > "$folder/$1"
    chmod +x "$folder/$1"
}
wrap rustc "$root/usr/bin/rustc --sysroot $root/usr"
wrap cc "$root/usr/bin/aarch64-linux-gnu-gcc-12 --sysroot=$root"
wrap emulator "$root/usr/bin/qemu-aarch64 -cpu max -L $root/usr/aarch64-linux-gnu"

cd "$project"
RUSTC=$folder/rustc CC_aarch64_unknown_linux_gnu=$folder/cc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$folder/cc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$folder/emulator CARGO_TARGET_DIR=$folder/target \
    cargo test -p stoa-engine --target "$target" --lib --test vectors --test models -- kernel agree second_implementation same_bits
