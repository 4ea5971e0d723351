# A Debian in a folder, for what Rust from rustup cannot do where only packages of Debian can be had: build for other
# processors and systems. To be sourced; needs root. It is Debian's testing, whose Rust is new enough and comes with the
# sources of the standard library, and everything in it goes by namespaces of its own: what it mounts and registers ends
# with the command.

debian=$TOOLS/debian/root
# Where the commands in it put what they build; there it is /target.
debian_target=$TOOLS/debian/target
debian_log=$TOOLS/debian/log
# Like the machine's own packages, these are signed. A clock that is ahead, or a mirror that is behind, is no reason to
# do without.
debian_options=(-q -y -o Acquire::Check-Valid-Until=no -o Acquire::Retries=3 -o Dpkg::Options::=--force-unsafe-io)

# Makes it, if need be, and installs packages. Ends the stage as skipped if that cannot be.
need_debian() { # packages, perhaps with :ARCHITECTURE
    local missing=() package
    [ "$(id -u)" = 0 ] || { echo "only root can set up a Debian to build in"; exit 77; }
    command -v debootstrap >/dev/null || { echo "debootstrap is not installed"; exit 77; }
    mkdir -p "$TOOLS/debian" "$debian_target" "$TOOLS/debian/cargo"
    if [ ! -e "$TOOLS/debian/made" ]; then
        rm -rf "$debian"
        echo "setting up a Debian in $debian"
        # Without waiting for the disk after each package: anybody may delete it all.
        DPKG_FORCE=unsafe-io unshare --mount debootstrap --variant=minbase --include=ca-certificates forky "$debian" \
            http://deb.debian.org/debian /usr/share/debootstrap/scripts/sid >"$debian_log" 2>&1 &&
            debian_as_root dpkg --add-architecture armhf && debian_as_root dpkg --add-architecture arm64 &&
            debian_as_root apt-get "${debian_options[@]}" update >>"$debian_log" 2>&1 ||
            { echo "no Debian to build in: $(tail -n 1 "$debian_log")"; exit 77; }
        touch "$TOOLS/debian/made"
    fi
    for package in "$@"; do
        chroot "$debian" dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing there: ${missing[*]}"
    debian_as_root apt-get "${debian_options[@]}" --no-install-recommends install "${missing[@]}" >"$debian_log" 2>&1 ||
        { echo "not to be had in Debian: $(grep -m 1 '^E:' "$debian_log")"; exit 77; }
}

debian_as_root() { # command
    unshare --mount bash -c 'mount -t proc proc "$0/proc" && exec chroot "$0" /usr/bin/env -i \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"' "$debian" "$@"
}

# Runs a command in the source tree, which is /src there and may not be written to. Programs for ARM run by qemu, also
# those that other programs start.
in_debian() { # assignments of variables, command
    mkdir -p "$debian/src" "$debian/target" "$debian/cargo"
    unshare --user --map-root-user --mount bash -c '
        set -e
        debian=$0
        mount --rbind /proc "$debian/proc"
        mount --rbind /dev "$debian/dev"
        mount --bind "$PWD" "$debian/src"
        mount -o remount,bind,ro "$debian/src"
        mount --bind "$1" "$debian/target"
        mount --bind "$2" "$debian/cargo"
        # Certificates and names are those of the machine.
        mount --bind /etc/ssl/certs "$debian/etc/ssl/certs"
        touch "$debian/etc/hosts"
        mount --bind /etc/hosts "$debian/etc/hosts"
        shift 2
        foreign() { # emulator, class, machine
            local header="\\x7fELF\\x$2\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x$3\\x00"
            local mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
            [ ! -x "$debian/usr/bin/$1" ] ||
                printf "%s" ":$1:M::$header:$mask:$debian/usr/bin/$1:F" >"$debian/proc/sys/fs/binfmt_misc/register"
        }
        if mount -t binfmt_misc none "$debian/proc/sys/fs/binfmt_misc" 2>/dev/null; then
            foreign qemu-arm 01 28
            foreign qemu-aarch64 02 b7
        fi
        exec chroot "$debian" /usr/bin/env -i --chdir=/src PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
            CARGO_HOME=/cargo CARGO_TARGET_DIR=/target SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
            CARGO_INCREMENTAL=0 CARGO_TERM_QUIET=true "$@"
    ' "$debian" "$debian_target" "$TOOLS/debian/cargo" "$@"
}

# What it takes to build statically by musl, with a standard library that is built along, for Debian has none.
musl_packages=(rustc cargo rust-src gcc libc6-dev musl-tools libunwind-22-dev)

# The unwinder of libgcc wants a new glibc. LLVM's wants two functions of any glibc, which print why it gave up.
need_musl() {
    need_debian "${musl_packages[@]}"
    in_debian bash -euc '
        mkdir -p /target/musl
        cd /target/musl
        cp /usr/lib/llvm-22/lib/libunwind.a .
        cat >checked.c <<END
#include <stdarg.h>
#include <stdio.h>
int __vfprintf_chk(FILE *file, int flag, const char *format, va_list list) { return vfprintf(file, format, list); }
int __vsnprintf_chk(char *to, size_t size, int flag, size_t room, const char *format, va_list list) {
    return vsnprintf(to, size, format, list);
}
END
        musl-gcc -O2 -c checked.c
        ar r libunwind.a checked.o 2>/dev/null'
}

# cargo in the source tree, for musl.
musl_cargo() { # command, options
    in_debian RUSTC_BOOTSTRAP=1 CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=musl-gcc \
        CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="-C link-self-contained=no -L /target/musl" \
        cargo "$1" -Z build-std=std,panic_unwind,test --locked --target x86_64-unknown-linux-musl "${@:2}"
}
