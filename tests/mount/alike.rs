//! The same commands on a mount of ours and on kernel ext4: what they say,
//! their exit codes and the tree that they leave must be the same.

use std::process::{Command, Stdio};

use crate::daemon::{World, said};
use crate::needs_fuse;
use crate::support::images;
use crate::support::kernel::{self, Mount};
use crate::support::tree::Tree;

/// What the scripts call. `as UID GID GROUPS COMMAND…` drops root's rights;
/// `sys CALL ARGS…` is one system call without a program's precautions;
/// `try COMMAND…` tells of its end.
const WORDS: &str = r#"
export LC_ALL=C
umask 022
as() {
    uid=$1 gid=$2 groups=$3
    shift 3
    setpriv --reuid "$uid" --regid "$gid" --groups "$groups" sh -c "$FUNCTIONS"'
        "$@"' sh "$@"
}
FUNCTIONS='
    sys() {
        perl -MFcntl -e '\''
            umask 0 if $ARGV[0] =~ /^create/;
            my ($call, @a) = @ARGV;
            my %calls = (
                rename => sub { rename $a[0], $a[1] },
                link => sub { link $a[0], $a[1] },
                symlink => sub { symlink $a[0], $a[1] },
                unlink => sub { unlink $a[0] },
                mkdir => sub { mkdir $a[0], oct($a[1] // "777") },
                create => sub { sysopen my $f, $a[0], O_WRONLY|O_CREAT, oct $a[1] },
                empty => sub { sysopen my $f, $a[0], O_WRONLY|O_TRUNC },
                append => sub { sysopen(my $f, $a[0], O_WRONLY|O_APPEND) && defined syswrite $f, $a[1] },
                truncate => sub { truncate $a[0], $a[1] },
                ftruncate => sub { open(my $f, "+<", $a[0]) && truncate $f, $a[1] },
                chmod => sub { chmod oct $a[0], $a[1] },
                open => sub { open my $f, "<", $a[0] },
                write => sub { sysopen my $f, $a[0], O_WRONLY },
                times => sub { utime $a[0], $a[1], $a[2] },
                now => sub { utime undef, undef, $a[0] },
                chdir => sub { chdir $a[0] },
                chown => sub { chown $a[0], $a[1], $a[2] },
            );
            $calls{$call}->() ? print("@ARGV: done\n") : print("@ARGV: $!\n");
        '\'' -- "$@"
    }
    try() {
        status=0
        "$@" 2>&1 || status=$?
        echo "$*: $status"
    }
    mode() { stat -c "%n %A %u %g" "$@"; }
'
eval "$FUNCTIONS"
"#;

/// The same script twice, and the same again when the kernel has mounted what
/// journalfs made.
#[track_caller]
fn alike(script: &str) {
    alike_with(&[], "rw", script);
}

/// The same with these options on both sides, of an image changed by tune2fs.
#[track_caller]
fn alike_with(tune: &[&str], options: &str, script: &str) {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    let image = images::DEBIAN.make(64 << 20);
    if !tune.is_empty() {
        images::run(Command::new("tune2fs").args(tune).arg(image.path()));
    }
    let mut world = World::with_image(&image);
    world.mount(&["-o", &format!("allow_other,{options}")]);
    let mount = Mount::with_options(image.path(), &format!("loop,{options}"));
    let mount = mount.expect("loop mounts are allowed");
    let words = |place| {
        let output = Command::new("bash")
            .args(["-c", &format!("{WORDS}{script}")])
            .current_dir(place)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        said(&output)
    };
    let (ours, theirs) = (words(world.point()), words(mount.path().to_owned()));
    assert!(!ours.contains("command not found"), "{ours}");
    let (ours, theirs) = (lines(&ours), lines(&theirs));
    let differing: Vec<String> = (0..ours.len().max(theirs.len()))
        .filter(|&n| ours.get(n) != theirs.get(n))
        .map(|n| {
            let line = |lines: &[String], n| lines.get(n).cloned().unwrap_or_default();
            let before = n.checked_sub(1).map(|n| line(&ours, n)).unwrap_or_default();
            format!(
                "{before}\n  here    {}\n  kernel  {}\n",
                line(&ours, n),
                line(&theirs, n)
            )
        })
        .collect();
    assert!(differing.is_empty(), "differences:\n{}", differing.concat());
    let shown = Tree::of(&world.point());
    let kernels = Tree::of(mount.path());
    let timeless = |tree: &Tree| tree.clone().without_times();
    timeless(&shown).assert_same("journalfs", &timeless(&kernels), "kernel ext4");
    mount.unmount();
    world.umount_and_judge();
    let again = Mount::read_only(&world.image()).expect("loop mounts are allowed");
    shown.assert_same("journalfs", &Tree::of(again.path()), "the kernel");
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_sticky_bit_guards_names_from_all_but_owners() {
    alike(
        r#"
        mkdir -m 1777 tmp; mkdir -m 777 open
        mkdir -m 1777 theirs; chown 2000 theirs
        for dir in tmp theirs; do
            for name in a b c d e; do as 1000 1000 1000 touch $dir/$name; done
            as 1000 1000 1000 mkdir $dir/sub
            as 1001 1001 1000 touch $dir/own $dir/own2 open/from
            as 1001 1001 1000 sys unlink $dir/a
            as 1001 1001 1000 sys rename $dir/a $dir/x
            as 1001 1001 1000 sys rename $dir/a open/a
            as 1001 1001 1000 sys rename $dir/own $dir/a
            as 1001 1001 1000 sys rename open/from $dir/a
            as 1001 1001 1000 try rmdir $dir/sub
            as 1001 1001 1000 sys link $dir/own $dir/link
            as 1001 1001 1000 sys rename $dir/own $dir/own2
            as 2000 2000 2000 sys unlink $dir/b
            as 2000 2000 2000 sys rename $dir/c $dir/own2
            as 1000 1000 1000 sys unlink $dir/d
            sys unlink $dir/e
        done
        mode tmp/* theirs/* open/*
        "#,
    );
}

#[test]
fn a_setgid_directory_hands_down_its_group_and_directories_the_bit() {
    alike(
        r#"
        mkdir -m 2777 dir; chgrp 500 dir
        mkdir -m 777 plain; chgrp 500 plain
        for d in dir plain; do
            for who in "0 0 0" "1000 1000 1000" "1000 1000 500"; do
                n=$d/$(echo $who | tr ' ' -)
                as $who touch $n.file
                as $who mkdir $n.dir $n.dir/below
                as $who sys mkdir $n.mode 7777
                as $who mkfifo $n.fifo
                as $who ln -s x $n.link
                # Not a member: no program that runs as the group.
                as $who sys create $n.program 2755
                as $who sys create $n.both 6777
                as $who sys create $n.locking 2745
                as $who sys chmod 2755 $n.file
                as $who sys chmod 6711 $n.both
                as $who sys chmod 2775 $n.dir
            done
        done
        find dir plain -printf '%p %M %U %G\n' | sort
        "#,
    );
}

#[test]
fn suid_and_sgid_go_with_a_write_a_truncation_or_another_owner() {
    alike(
        r#"
        mkdir -m 777 d; cd d
        for who in "0 0 0" "1000 1000 1000,500" "1000 1000 1000" "1001 1001 500" "1002 1002 1002"; do
            for mode in 6777 2767 7777; do
                for act in "append F x" "append F" "truncate F 1" "truncate F 4" "ftruncate F 9" "empty F" \
                    "chown 1000 1000 F" "chown -1 500 F" "chmod 6777 F" "link F F.$mode"; do
                    rm -f f; echo abc >f; chown 1000:500 f; chmod $mode f; echo "$who, $mode"
                    as $who sys ${act//F/f}
                    mode f
                done
                for act in "fallocate -l 9 f" "fallocate -n -l 9000 f" "fallocate -p -o 0 -l 2 f" \
                    "dd if=/dev/zero of=f bs=1 count=1 conv=notrunc status=none" "cp /etc/hostname f" \
                    "setfattr -n user.x -v 1 f" "touch f" "setfacl -m u:7:r f"; do
                    rm -f f; echo abc >f; chown 1000:500 f; chmod $mode f; echo "$who, $mode"
                    as $who try $act
                    mode f
                done
            done
        done
        # (Another's is refused by ext4. FUSE doesn't tell it from a write.)
        for who in "0 0 0" "1000 1000 1000"; do
            for mode in 6755 2745 755; do
                touch g; chown 1000:500 g; chmod $mode g
                as $who sys chown -1 -1 g; mode g
            done
        done
        mkdir sub; chmod 7777 sub
        sys chown 5 6 sub; mode sub
        "#,
    );
}

#[test]
fn default_acls_are_inherited() {
    alike(
        r#"
        mkdir dir; chmod 777 dir
        setfacl -d -m u::rwx,u:1000:rwx,g::rx,g:500:rw,o::-,m::rwx dir
        for mask in 022 077 000; do
            umask $mask
            touch dir/touch$mask; mkdir dir/mkdir$mask; mkfifo dir/fifo$mask; ln -s touch$mask dir/link$mask
            touch dir/mkdir$mask/file; mkdir -p dir/mkdir$mask/a/b
            sys create dir/raw$mask 640; sys create dir/private$mask 600; sys create dir/all$mask 6777
            mknod dir/dev$mask c 1 3
        done
        umask 022
        as 1000 1000 1000 touch dir/user
        setfacl -m u:1001:rx dir; setfacl -k dir/mkdir022
        touch dir/mkdir022/plain
        # A setgid directory, and a mask that takes away.
        chmod 2777 dir; chgrp 500 dir
        setfacl -d -m m::r dir
        mkdir dir/setgid; touch dir/setgid/file
        chmod 755 dir/touch000; chmod 700 dir/all000; chmod g+w dir/raw022
        setfacl -m m::rwx dir/raw077; setfacl -b dir/all022; setfacl -x u:1000 dir/touch077
        cp -p dir/touch000 dir/copied; cp dir/touch000 dir/made
        setfacl -m u:1000:rwx dir/link000
        try setfacl -d -m u:1:r dir/touch022
        as 1001 1001 1001 try setfacl -m u:1:r dir/touch022
        as 1000 1000 1000 try setfacl -m u:1:r dir/user
        getfacl -nR . 2>&1
        find . -printf '%p %M %U %G %l\n' | sort
        "#,
    );
}

#[test]
fn acls_decide_who_reads_writes_and_searches() {
    alike(
        r#"
        mkdir dir; echo text >dir/file; chown 1:1 dir/file dir; chmod 640 dir/file; chmod 750 dir
        for acl in u:1000:r u:1000:- g:1000:rw g:500:r,g:1000:- g:501:rwx,m::r m::- u:1000:rwx,m::rx o::rw; do
            setfacl -b dir dir/file
            setfacl -m $acl,o::x dir; setfacl -m $acl dir/file
            for who in "1000 1000 1000" "1001 1001 500" "1002 1000 501,500" "1 5 5" "1003 1 1003"; do
                echo "$acl, $who"
                as $who try cat dir/file
                as $who sys append dir/file x
                as $who try ls dir
                as $who sys create dir/new 644
                as $who try test -w dir/file
                as $who try test -x dir
            done
            rm -f dir/new
        done
        "#,
    );
}

#[test]
fn who_may_not_write_search_or_own_is_told_as_by_the_kernel() {
    alike(
        r#"
        mkdir -m 777 d; cd d
        for mode in 444 222 111 640 666 000; do
            for who in "1000 1000 1000" "1001 1001 1001" "1001 1000 1001" "1002 1002 1000" "0 0 0"; do
                rm -rf f; echo text >f; touch -d @1000 f; chown 1000:1000 f; chmod $mode f; echo "$who, $mode"
                for act in "open F" "write F" "append F x" "truncate F 2" "empty F" "times 5 6 F" "now F" \
                    "chown -1 1000 F" "chown 1001 -1 F" "chmod 646 F"; do
                    as $who sys ${act//F/f}
                done
                as $who try test -w f; as $who try test -r f; as $who try test -x f
                stat -c '%s %A %u %g' f
            done
        done
        for mode in 666 444 222 711 100 755 000; do
            for who in "1000 1000 1000" "1001 1001 1001" "0 0 0"; do
                rm -rf s; mkdir -p s/below; echo text >s/file; ln -s file s/link; ln -s below/.. s/around
                chmod 666 s/file; chown -R 1000:1000 s; chmod $mode s; echo "$who, $mode"
                for act in "chdir s" "open s/file" "write s/file" "open s/link" "chdir s/below" "chdir s/around" \
                    "open s/none" "create s/new 644" "mkdir s/dir" "symlink x s/sym" "link s/file s/hard" \
                    "rename s/file s/moved" "rename s/moved out" "unlink s/link" "truncate s/file 1" \
                    "times 5 6 s/file" "chmod 600 s/file" "chmod 777 s" "now s"; do
                    as $who sys $act
                done
                as $who try ls s; as $who try stat -c %s s/file; as $who try rmdir s/below; rm -f out
            done
        done
        "#,
    );
}

#[test]
fn supplementary_groups_count() {
    alike(
        r#"
        mkdir -m 770 team; chgrp 500 team
        echo secret >team/file; chgrp 501 team/file; chmod 640 team/file
        echo not >team/other; chgrp 502 team/other; chmod 604 team/other
        groups=$(seq -s, 600 640)
        for who in "1000 1000 1000" "1000 1000 500" "1000 1000 500,501" "1000 501 500,502" "1000 500 $groups,501,502"; do
            as $who try cat team/file
            as $who try cat team/other
            as $who sys create team/mine 666
            as $who sys chown -1 501 team/mine
            as $who sys chmod 2755 team/mine
            mode team/mine
            as $who sys chown -1 77 team/mine
            as $who sys chown 1001 -1 team/mine
            as $who sys append team/file x
            mode team/*
            rm -f team/mine
        done
        "#,
    );
}

#[test]
fn a_rename_over_an_open_file_leaves_it_to_who_has_it_open() {
    alike(
        r#"
        echo old >old; echo new >new; ln old other
        exec 3<>old
        sys rename new old
        cat <&3; cat old other; stat -Lc '%h %s' /dev/fd/3
        rm other
        echo more >&3; stat -Lc '%h %s' /dev/fd/3 old
        cat /dev/fd/3; exec 3>&-
        # Two names of one file: nothing happens.
        ln old same; sys rename old same; ls; stat -c %h old same
        # A directory that somebody is in.
        mkdir empty full full/sub; cd empty
        sys rename ../full ../empty
        ls -a; try touch here; try mkdir here; pwd -P | sed 's|.*/||'; stat -c %h .
        cd ..; ls -R
        mkfifo fifo; echo x >f; sys rename f fifo; cat fifo
        ln -s nowhere link; echo y >f; sys rename f link; cat link
        "#,
    );
}

#[test]
fn directories_move_with_their_parent_and_never_into_themselves() {
    alike(
        r#"
        mkdir -p a/b/c d/e; touch a/b/file d/file; mkdir empty
        links() { stat -c '%n %h' $(find . -type d -not -name lost+found | sort); }
        parent() { [ "$(stat -c %i "$1/..")" = "$(stat -c %i "$2")" ]; }
        sys rename a/b d/moved; links; try parent d/moved d
        sys rename d/moved/c top; links; try parent top .
        for to in d/moved d/moved/x d/moved/c d/e .. . d/moved/.. empty d/file top; do sys rename d $to; done
        for from in empty d/file .. . d/moved/. d/moved/.. nothing; do sys rename $from d/e; sys rename $from top; done
        links
        sys rename d/e d/moved; sys rename d/e a; links
        mkdir deep; (cd deep; for n in $(seq 50); do mkdir x; cd x; done)
        sys rename deep deep/x/x/x/x/x/new; sys rename deep/x/x/x deep/y; sys rename deep deep/y/z; links
        # To move a directory elsewhere its .. changes: its owner's leave.
        mkdir -m 777 one two; mkdir -m 755 one/theirs; as 1000 1000 1000 mkdir one/mine
        as 1000 1000 1000 sys rename one/theirs two/theirs
        as 1000 1000 1000 sys rename one/theirs one/same
        as 1000 1000 1000 sys rename one/mine two/mine
        find . -printf '%p %M %U\n' | sort
        "#,
    );
}

#[test]
fn an_unlinked_file_is_written_and_read_until_it_is_closed() {
    alike(
        r#"
        exec 3<>file; echo one >&3; rm file
        echo two >&3; stat -Lc '%h %s %A' /dev/fd/3; cat /dev/fd/3
        try ln -L /proc/self/fd/3 back
        chmod 600 /dev/fd/3; chown 5:6 /dev/fd/3; truncate -s 100000 /dev/fd/3
        setfattr -n user.x -v 1 /proc/self/fd/3; getfattr --only-values -n user.x /proc/self/fd/3 2>/dev/null; echo
        stat -Lc '%h %s %A %u %g' /dev/fd/3
        echo another >file; stat -c %h file; exec 3>&-
        mkdir dir; cd dir; rmdir ../dir; try touch file; try mkdir dir; try ls -a; stat -c %h .; cd ..
        ls
        "#,
    );
}

#[test]
fn a_removed_working_directory_is_still_ones_own() {
    alike(
        r#"
        asked() {
            perl -e '
                sub told { print "$_[0]: ", ($_[1] ? "done" : "$!"), "\n" }
                opendir(my $d, ".") or print "open: $!\n";
                $! = 0; my @n = readdir $d; print "list: @n: $!\n";
                print "stat: ", join(" ", (stat ".")[2, 3, 4, 5]), "\n";
                told $_, scalar(stat $_) for "file", "..", "./x/y";
                told "chmod", chmod(0700, ".");
                told "chown", chown(5, 6, ".");
                told "times", utime(1000, 2000, ".");
                print "stat: ", join(" ", (stat ".")[2, 3, 4, 5, 8, 9]), "\n";
                told "mkdir", mkdir("x");
                told "symlink", symlink("x", "y");
                told "rename", rename("../other", "z");
                told "rmdir", rmdir("../removed");
                told "create", open(my $g, ">", "new");
            '
        }
        mkdir removed other; touch other/file
        cd removed; rmdir ../removed; asked; cd ..
        mkdir removed empty; cd empty; sys rename ../removed ../empty; asked; cd ..
        mkdir -m 777 open; as 1000 1000 1000 mkdir open/theirs; cd open/theirs; rmdir ../theirs
        # (Without a shell, which would complain of where it is.)
        for who in 1000 1001; do
            setpriv --reuid $who --regid $who --clear-groups perl -e '
                print "chmod: ", (chmod(0711, ".") ? "done" : "$!"), "\n";
                print "chown: ", (chown(1001, -1, ".") ? "done" : "$!"), "\n";
                opendir(my $d, ".") or print "open: $!\n";
            '
        done
        mode .; cd ../..
        find . -printf '%p %M %U\n' | sort
        "#,
    );
}

#[test]
fn a_removed_directory_keeps_its_attributes_while_somebody_is_in_it() {
    alike(
        r#"
        mkdir dir; setfattr -n user.old -v o dir; setfacl -m u:1001:rwx,d:u:5:r dir; chmod o-rwx dir
        mkdir large; setfattr -n user.large -v $(printf 'x%.0s' $(seq 2000)) large; chmod 777 large
        # By the working directory, and by an open one.
        for place in . /proc/self/fd/3; do
            for dir in dir large; do
                cp -a $dir gone; cd gone; exec 3<.; rmdir ../gone
                for who in "0 0 0" "1001 1001 1001" "1002 1002 1002"; do
                    echo "$dir, $who"
                    asked() { as $who try "$@" $place; }
                    asked getfattr -m - -d; asked getfacl -nc
                    asked setfattr -n user.new -v $(printf 'y%.0s' $(seq 500)); asked setfattr -n user.old -v p
                    asked setfattr -n user.toobig -v $(printf 'z%.0s' $(seq 4000))
                    asked setfattr -n trusted.x -v t; asked setfacl -m u:7:rw; asked chmod 751
                    asked getfattr -m - -d; asked getfacl -nc; asked stat -c '%A %h'
                    asked setfattr -x user.old; asked setfattr -x user.old; asked getfattr -m - -d
                done
                exec 3<&-; cd ..
            done
        done
        find . -printf '%p %M %U\n' | sort
        "#,
    );
}

#[test]
fn names_are_bytes() {
    alike(
        r#"
        long=$(printf 'x%.0s' $(seq 255))
        try touch $long; try mkdir ${long%x}d; try touch ${long}y; try mkdir ${long}y; try ls ${long}y
        sys link $long ${long}y; sys rename $long ${long}y; sys symlink x ${long}y; sys rename $long ${long%xx}zz
        wide=$(printf '\303\251%.0s' $(seq 127)); try touch $wide ${wide}1; try touch ${wide}12
        perl -e '
            for my $n (1 .. 255) {
                my $name = chr $n;
                next if $name eq "/";
                for my $f ($name eq "." ? () : $name, "$name$name$name", "x$name", "${name}x") {
                    open(my $h, ">", "./$f") or print "$n: $!\n";
                }
            }
            opendir(my $d, "."); my @n = sort readdir $d; print scalar(@n), "\n";
            print unpack("H*", $_), "\n" for @n;
            mkdir "\xff\xfe\n" or print "$!\n"; symlink "\x01\xff\n\t", "\n" x 255 or print "$!\n";
            print unpack("H*", readlink("\n" x 255)), "\n";
        '
        for target in $(seq 59 61) 255 4094 4095; do sys symlink $(printf 'y%.0s' $(seq $target)) link$target; done
        sys symlink $(printf 'y%.0s' $(seq 4096)) link4096; sys symlink "" nothing
        try touch "" .. . a/ link59/; sys mkdir dir/ ; sys create ... 644
        "#,
    );
}

#[test]
fn times_are_kept_to_the_nanosecond_and_as_far_as_ext4_reaches() {
    alike(
        r#"
        for at in 0 0.000000001 -1 -0.5 -2147483648 -2147483648.5 -2147483649 -99999999999 1.999999999 \
            2147483647.123456789 2147483648 4294967295.999999999 4294967296 6442450943 6442450944 10737418240.1 \
            15032385535 15032385535.999999999 15032385536 99999999999 9000000000000000000; do
            touch file$at dir; mkdir -p dir$at; ln -s x link$at
            touch -d @$at file$at dir$at 2>&1; touch -h -d @$at link$at
            touch -a -d @$at file; touch -m -d @$at only
            stat -c '%n %.9X %.9Y' file$at dir$at link$at; stat -c %.9X file; stat -c %.9Y only
        done
        # e2fsck takes these for an old kernel's mistake.
        rm -r *10737418240.1
        # The change time is now: neither in the past nor wrapped.
        for file in *; do [ $(($(date +%s) - $(stat -c %Z "$file"))) -lt 900 ] || echo "$file"; done
        "#,
    );
}

#[test]
fn chattr_sets_and_refuses_the_same_and_what_is_made_inherits() {
    alike(
        r#"
        flags() { lsattr -d "$1" | sed 's/-//g'; }
        mkdir d; touch f
        for how in +S +D +T +i -i +a -a +d +A +u +s; do
            for at in f d; do try chattr $how $at; flags $at; done
        done
        touch own; chown 1000 own; try as 1000 1000 1000 chattr +j own
        for how in S D SD T; do
            mkdir in$how; chattr +$how in$how
            touch in$how/file; mkdir in$how/dir
            flags in$how/file; flags in$how/dir
        done
        chattr -R -SDTadAus .
        try chattr -v 77 f
        mkdir p; touch p/f
        for how in +P -P +x -x +m +c -e +e -e; do
            for at in p/f p; do try chattr $how $at; flags $at; done
        done
        mkdir p/d; touch p/d/f; flags p/d; lsattr p
        echo contents > p/f; try chattr -e p/f; try chattr +e p/f; cat p/f; flags p/f
        try chattr -p 5 f; try chattr -p 0 f
        touch fixed; chattr +i fixed
        try chattr +d fixed; try chattr +i fixed; try chattr -i+A fixed; flags fixed
        echo contents > log; chattr +a log
        for how in '-p' '-z' '-z -n' '' '-n'; do try fallocate $how -l 4 log; done
        cat log; chattr -a log
        xfs_io -c 'chattr +dA' -c lsattr f; flags f
        xfs_io -c 'chattr -d' -c lsattr f; flags f
        "#,
    );
}

#[test]
fn nothing_is_punched_behind_the_largest_size() {
    alike(
        r#"
        head -c 40960 /dev/zero | tr '\0' x > f
        t=$((1 << 44))
        for at in "$((t + 100)) 3000" "0 $((t + 8192))" "$t 4096" "$((t - 4096)) 4096" \
                  "$((t - 8192)) 8192" "$((t - 8192)) 4096" "40000 $((t - 44096))"; do
            set -- $at
            for how in -p -z '-z -n' '' '-n'; do
                # (Space that isn't there is another matter.)
                [ "$how" = -p ] || [ "$2" -lt 10000 ] || continue
                timeout 20 fallocate $how -o $1 -l $2 f 2>/dev/null; echo "$how $at: $?"
                stat -c '%s %b' f; head -c 50000 f | cksum; truncate -s 40960 f
            done
        done
        "#,
    );
}

#[test]
fn a_hole_ends_with_the_last_page_and_leaves_what_is_allocated_behind() {
    alike(
        r#"
        for size in 0 100 4095 4096 5000 8192; do
            for hole in '0 1000000' '0 4096' '4096 4096' '100 8192' '4096 100000' '16384 8192'; do
                rm -f f; head -c $size /dev/zero | tr '\0' x > f; fallocate -n -l 50000 f
                set -- $hole; fallocate -p -o $1 -l $2 f
                echo "$size $hole: $(stat -c '%s %b' f) $(cksum < f)"
            done
        done
        "#,
    );
}

#[test]
fn the_last_fiftieth_stays_free() {
    alike(
        r#"
        fill() { head -c 100000000 /dev/zero; }
        mkdir -m 777 u
        as 1000 1000 1000 sh -c 'head -c 100000000 /dev/zero > u/f' 2>&1 | sed 's/.*: //'
        stat -f -c '%a' .; stat -c %s u/f
        fill 2>&1 > root | sed 's/.*: //'; stat -f -c '%f' .; stat -c %s root
        touch small; head -c 5000 /dev/zero 2>/dev/null > more; stat -c %s more
        # What is there can be punched and written to all the same.
        fallocate -p -o 8192 -l 4096 u/f; for n in $(seq 1 2 99); do
            fallocate -p -o $((n * 8192)) -l 4096 root || echo $n
        done
        dd if=/dev/zero of=u/f bs=4096 count=2 conv=notrunc status=none; stat -c %s u/f
        "#,
    );
}

#[test]
fn truncation_to_the_same_size_gives_back_what_was_allocated_behind_it() {
    alike(
        r#"
        for size in 0 100 4096; do
            xfs_io -f -c "pwrite 0 $size" -c 'falloc -k 0 40960' f$size > /dev/null
            stat -c '%s %b' f$size; xfs_io -c "truncate $size" f$size; stat -c '%s %b' f$size
            xfs_io -c 'falloc -k 0 40960' f$size; [ $size != 0 ] || : > f$size; stat -c '%s %b' f$size
        done
        "#,
    );
}

#[test]
fn an_append_only_file_only_grows() {
    alike(
        r#"
        echo 0123456789 > log; chattr +a log
        for flags in 'O_WRONLY|O_APPEND' 'O_RDWR|O_APPEND|O_SYNC'; do
            perl -MFcntl -e '
                sysopen(my $f, "log", eval shift) or die "$!\n";
                sysseek($f, 0, 0); syswrite($f, "grown\n") or print "append: $!\n";
            ' -- "$flags"
            cat log
            # (ext4 does not let O_APPEND go, here nothing can be written then.)
            perl -MFcntl -e '
                sysopen(my $f, "log", eval shift) or die "$!\n";
                fcntl($f, F_SETFL, 0); sysseek($f, 0, 0); syswrite($f, "over");
            ' -- "$flags"
            head -n 1 log
            chattr -a log; echo 0123456789 > log; chattr +a log
        done
        # (Who had it open before may go on.)
        echo 0123456789 > early
        (chattr +a early; printf over >&3; cat early) 3<> early
        (printf over >&3) 3<> early || cat early; chattr -a early
        # (What mmap(2) says is not quite the kernel's: ENODEV, not EACCES.)
        for how in '-a -c "mmap -rw 0 11"' '-a -c "mmap -r 0 11"' '-r -c "mmap -r 0 11"'; do
            eval "xfs_io $how -c 'mread -v 0 4' log" 2>&1 | grep -q 01 && echo "$how"
        done
        xfs_io -a -c 'mmap -rw 0 11' -c 'mwrite -S 0x41 0 4' log > /dev/null 2>&1
        cat log; stat -c %s log
        chattr -a log
        xfs_io -c 'mmap -rw 0 11' -c 'mwrite -S 0x41 0 4' log; cat log
        "#,
    );
}

#[test]
fn the_root_is_inode_2_however_it_is_asked_for() {
    alike(
        r#"
        mkdir d; stat -c %i . d/..; ls -di .; ls -ai d | grep '\.\.'; find . -maxdepth 0 -inum 2
        chmod 750 .; touch f; stat -c '%i %a %h' .
        "#,
    );
}

#[test]
fn a_store_into_a_mapping_takes_no_privileges() {
    alike(
        r#"
        for how in 'pwrite 0 4' 'mmap -rw 0 11' 'mmap -rw 0 11" -c "mwrite 0 4'; do
            rm -f run; echo 0123456789 > run; chmod 755 run
            setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 run
            eval "xfs_io -c \"$how\" -c fsync run" > /dev/null
            echo "$how"; getfattr -d -m - -e hex run; mode run
        done
        "#,
    );
}

#[test]
fn attributes_nobody_knows_are_refused_and_equal_ones_are_no_change() {
    alike(
        r#"
        touch f; mkdir d
        since() { before=$(stat -c %Z.%z f); "$@"; [ "$before" = "$(stat -c %Z.%z f)" ] && echo same; }
        set_() { setfattr -n user.a -v "$1" f; }
        for value in one one two two '' ''; do since set_ "$value"; done
        for list in u:5:r u:5:r u:5:rw; do since setfacl -m $list f; done
        since setfacl -b f; since setfacl -b f
        since setfattr -x user.a f
        for name in system.foo system.data system.richacl foo.bar gnu.a gnu. user. 'system.'; do
            for at in f d; do
                try setfattr -n "$name" -v x $at; try getfattr -n "$name" $at; try setfattr -x "$name" $at
            done
        done
        "#,
    );
}

#[test]
fn what_goes_past_the_page_cache_is_of_whole_sectors() {
    alike(
        r#"
        direct() { dd "$@" status=none conv=notrunc 2>&1 | sed 's/^.*: //'; stat -c %s f; }
        out() { direct if=/dev/zero of=f oflag=direct,seek_bytes "$@"; }
        in() { direct if=f of=/dev/null iflag=direct,skip_bytes "$@"; }
        out bs=4096 count=2
        out bs=512 seek=9216 count=1
        out bs=1000 count=1
        out bs=512 seek=100 count=1
        out bs=512 seek=9000 count=1
        in bs=4096 count=5
        in bs=512 skip=512 count=1
        in bs=1000 count=1
        in bs=512 skip=100 count=1
        in bs=512 skip=9800 count=1
        truncate -s 9800 f
        in bs=4096 count=5
        in bs=512 skip=9800 count=1
        in bs=512 skip=9700 count=1
        cksum f
        "#,
    );
}

#[test]
fn options_on_sizes_and_the_reserve_mean_what_they_mean_to_ext4() {
    alike_with(
        &[],
        "minixdf,max_dir_size_kb=8,resuid=1000,resgid=500",
        r#"
        stat -f -c '%b %S' .
        mkdir -m 777 d
        for n in $(seq 1000 1300); do
            touch d/a-name-that-takes-some-room-$n 2>&1 | sed 's/-[0-9]*//'
        done | sort | uniq -c
        # (How names fall into blocks is each side's own.)
        find d -delete; mkdir -m 777 d
        for who in "1001 1001 1001" "1000 1000 1000" "1002 1002 500"; do
            as $who dd if=/dev/zero of=d/fill bs=64k status=none 2>&1 | head -1
            as $who sh -c 'test $(stat -c %s d/fill) -gt 50000000 && echo much'
            # (The kernel keeps some for itself on top.)
            test $(stat -f -c %f .) -gt 600 && echo reserved
            rm d/fill
        done
        "#,
    );
}

#[test]
fn what_the_image_asks_for_counts_unless_the_mount_says_otherwise() {
    let tune = [
        "-o",
        "bsdgroups,discard,nobarrier",
        "-E",
        "mount_opts=minixdf",
    ];
    let script = r#"
        stat -f -c '%b' .
        mkdir dir; chgrp 500 dir; touch dir/file; mkdir dir/sub
        mode dir/file dir/sub
    "#;
    alike_with(&tune, "rw", script);
    alike_with(&tune, "nogrpid,nodiscard,bsddf", script);
}
