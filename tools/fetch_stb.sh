#!/bin/sh
# Makes <stb/stb_image.h> and <stb/stb_image_write.h> available to the compiler.
#
#     fetch_stb.sh DIR [COMPILER...]
#
# Does nothing if the compiler finds both, on the system or below DIR. Otherwise fetches them from their authors into DIR/stb at a
# fixed version, and keeps them only if their checksums are right. STB_URL names another place that holds the two files.

dir=${1:?usage: fetch_stb.sh DIR [COMPILER...]}
shift
[ $# -gt 0 ] || set -- cc

commit=5c205738c191bcb0abc65c4febfa9bd25ff35234     # stb_image 2.30, stb_image_write 1.16
url=${STB_URL:-https://raw.githubusercontent.com/nothings/stb/$commit}

if printf '#include <stb/stb_image.h>\n#include <stb/stb_image_write.h>\n' |
   "$@" -isystem "$dir" -x c -fsyntax-only - 2>/dev/null; then exit 0; fi

new=$dir/stb.new.$$
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM

give_up() {
    echo "stb is missing ($1): install your system's stb headers (Debian and Ubuntu: apt-get install libstb-dev)," \
         "or put stb_image.h and stb_image_write.h into $dir/stb." >&2
    exit 1
}

fetch() {       # URL FILE
    if command -v curl >/dev/null 2>&1; then curl -fsSL --connect-timeout 10 --max-time 120 -o "$2" "$1" 2>/dev/null
    elif command -v wget >/dev/null 2>&1; then wget -q -T 30 -t 2 -O "$2" "$1"
    else give_up "and neither curl nor wget is here to fetch it"
    fi
}

checksum() {    # FILE
    if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$1"
    elif command -v shasum >/dev/null 2>&1; then shasum -a 256 <"$1"
    else openssl dgst -sha256 -r <"$1"
    fi | cut -d ' ' -f 1
}

get() {         # NAME SHA256
    fetch "$url/$1" "$new/$1" || give_up "and could not be fetched"
    [ "$(checksum "$new/$1")" = "$2" ] || give_up "and what was fetched is not the expected $1"
}

mkdir -p "$new" || exit 1
get stb_image.h       594c2fe35d49488b4382dbfaec8f98366defca819d916ac95becf3e75f4200b3
get stb_image_write.h cbd5f0ad7a9cf4468affb36354a1d2338034f2c12473cf1a8e32053cb6914a05
rm -rf "$dir/stb"
mv "$new" "$dir/stb" && echo "fetched stb into $dir/stb"
