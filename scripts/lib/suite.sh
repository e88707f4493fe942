# What the scripts that run foreign suites share; sourced, with the project's
# root as the current folder and `set -eu` in force. $suite names the script in
# its messages.
#
# A suite runs on a fresh mount of ours and on kernel ext4 on a loop device,
# so that each difference shows. $JOURNALFS names a program that is built
# already; results go to the file $RESULTS (scripts/conformance reads it).

PATH=$PATH:/usr/sbin:/sbin

step() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$suite" "$*" >&2
    exit 1
}

# build: sets $journalfs.
build() {
    journalfs=${JOURNALFS:-}
    if [ -z "$journalfs" ]; then
        cargo build --release --quiet
        journalfs=$PWD/target/release/journalfs
    fi
}

# crate NAME VERSION: installs a program from crates.io below target, at
# exactly this version, and puts it on the path.
crate() {
    PATH=$PWD/target/suites/bin:$PATH
    cargo install --quiet --locked --root target/suites --version "=$2" "$1" ||
        die "cargo can't install $1 $2: is crates.io or a mirror reachable?"
}

# workspace: makes $work, removed at the end with all that is mounted there.
workspace() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/journalfs-$suite.XXXXXX")
    chmod 755 "$work" # suites run parts as other users
    trap cleanup EXIT
    trap 'exit 130' INT TERM
}
cleanup() {
    cd /
    for side in ours ext4; do
        umount -l "$work/$side" 2>/dev/null || fusermount3 -uzq "$work/$side" 2>/dev/null || true
    done
    rm -rf "${work:?}"
}

# mount_ours SIZE [OPTION…]: a new image, mounted on $work/ours.
mount_ours() {
    rm -rf "${work:?}/ours.img" "${work:?}/ours.img.journal"
    mkdir -p "$work/ours"
    "$journalfs" mount --create "$1" "${@:2}" "$work/ours.img" "$work/ours"
}

# mount_ext4 SIZE: a new image, mounted by the kernel on $work/ext4.
mount_ext4() {
    rm -f "$work/ext4.img"
    mkdir -p "$work/ext4"
    truncate -s "$1" "$work/ext4.img"
    mke2fs -q -F -t ext4 "$work/ext4.img"
    mount -o loop "$work/ext4.img" "$work/ext4"
}

# end_ours, end_ext4: unmounts; ours must pass e2fsck.
end_ours() {
    "$journalfs" umount "$work/ours"
    e2fsck_clean "$work/ours.img"
}
end_ext4() { umount "$work/ext4"; }

# With -n, the exit code of e2fsck is 0 for some findings too: read its words.
e2fsck_clean() {
    printf '$ e2fsck -fn %s\n' "$1"
    e2fsck -fn "$1" >"$work/fsck" 2>&1 || { cat "$work/fsck"; die "e2fsck is not content"; }
    ! grep -E '\? no|IGNORED' "$work/fsck" | grep -vE 'could be (narrower|shorter)|^Optimize' ||
        die "e2fsck is not content"
    tail -1 "$work/fsck"
}

# result SUITE VERSION OURS EXT4 NOTE: one row of the table of conformance.
# OURS and EXT4 are what passed there, as in "237 of 237"; NOTE explains every
# difference, or is empty.
result() {
    printf '%s %s: %s here, %s on kernel ext4%s\n' "$1" "$2" "$3" "$4" "${5:+; $5}"
    [ -z "${RESULTS:-}" ] || printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "${5:-}" >>"$RESULTS"
}
