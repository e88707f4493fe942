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

# arguments "$@": sets $quick to what `--quick` chooses (a short run of all
# parts, for CI) or nothing.
arguments() {
    quick=
    [ $# -eq 0 ] || { [ $# -eq 1 ] && [ "$1" = --quick ] && quick=quick; } ||
        die "unknown argument $*: usage: scripts/$suite [--quick]"
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
    cargo install --quiet --locked --debug --root target/suites --version "=$2" "$1" ||
        die "cargo can't install $1 $2: is crates.io or a mirror reachable?"
}

# workspace: makes $work, removed at the end with all that is mounted there;
# the processes named in $children are ended before.
workspace() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/journalfs-$suite.XXXXXX")
    chmod 755 "$work" # suites run parts as other users
    trap cleanup EXIT
    trap 'exit 130' INT TERM
}
cleanup() {
    cd /
    # shellcheck disable=SC2086 # a list of numbers
    [ -z "${children:-}" ] || kill -9 $children 2>/dev/null || true
    for side in ${sides:-ours ext4 memory}; do
        umount -l "$work/$side" 2>/dev/null || fusermount3 -uzq "$work/$side" 2>/dev/null || true
    done
    # What could not be unmounted must not be emptied.
    rm -rf --one-file-system "${work:?}"
}

# mount_ours SIZE [OPTION…]: a new image, mounted on $work/ours.
mount_ours() {
    rm -rf "${work:?}/ours.img" "${work:?}/ours.img.journal"
    mkdir -p "$work/ours"
    "$journalfs" mount --create "$1" "${@:2}" "$work/ours.img" "$work/ours"
}

# kill_ours: SIGKILL for the daemon of $work/ours; returns when it is dead.
# Background jobs may die of that: the shell's words on it are dropped.
kill_ours() {
    local pid
    pid=$("$journalfs" status --json "$work/ours" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
    [ -n "$pid" ] || die "nothing is mounted on $work/ours"
    kill -9 "$pid"
    while kill -0 "$pid"; do sleep 0.02; done 2>/dev/null
}

# again_ours [OPTION…]: mounts the image again, after kill_ours.
again_ours() { "$journalfs" mount "$@" "$work/ours.img" "$work/ours"; }

# mount_ext4 SIZE: a new image, mounted by the kernel on $work/ext4.
mount_ext4() {
    local image=${ext4_image:-$work/ext4.img}
    rm -f "$image"
    mkdir -p "$work/ext4"
    truncate -s "$1" "$image"
    mke2fs -q -F -t ext4 "$image"
    mount -o loop "$image" "$work/ext4"
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
