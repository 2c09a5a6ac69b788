#!/bin/sh
# check_docs.sh DIR [COMPILER...]   Is what is written true? Run in the top folder; DIR takes what is extracted and built.
#
#   programs    every ```c block of README.md, and every block of tinytl.h between "//! program NAME" and "//! end" (each line
#               behind "//  "), is a whole program and builds without warnings
#   contents    the chapters listed in the table of contents of tinytl.h, lines that begin with "//  >>tag", are the
#               chapters of the file, banners "// >>tag: title", in the same order
#   places      no file names a folder of somebody's machine
#   lines       tinytl.h is plain ASCII, no line longer than 130 columns
#   links       every file that README.md links to exists

dir=${1:?usage: check_docs.sh DIR [COMPILER...]}
shift
[ $# -gt 0 ] || set -- cc
passed=0
failed=0
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED check_docs: $*"; }

rm -rf "$dir"
mkdir -p "$dir" || exit 1

# ---- programs ------------------------------------------------------------------------------

awk -v dir="$dir" '
    /^```c *$/ && !inside { inside = 1; file = dir "/readme_" ++count ".c"; next }
    /^``` *$/  && inside  { inside = 0; close(file); next }
    inside                { print > file }' README.md

awk -v dir="$dir" '
    /^\/\/! program /     { inside = 1; file = dir "/manual_" $3 ".c"; next }
    /^\/\/! end/          { inside = 0; close(file); next }
    inside                { sub(/^\/\/ ? ?/, ""); print > file }
    END                   { if (inside) print "a program is not closed by //! end" > (dir "/manual_open.c") }' tinytl.h

[ -f "$dir/readme_1.c" ] || fail "README.md has no program"
[ "$(grep -c '^//! program ' tinytl.h)" -eq "$(find "$dir" -name 'manual_*.c' | wc -l)" ] ||
    fail "tinytl.h: two programs of one name, or one without //! end"

# -O0: only the warnings and the linking count here.
for program in "$dir"/*.c; do
    [ -f "$program" ] || continue
    if "$@" -std=c99 -D_POSIX_C_SOURCE=200809L -O0 -Wall -Wextra -Wpedantic -Wshadow -Werror -I. "$program" \
            -o "${program%.c}" -lm -pthread >"$program.log" 2>&1; then pass
    else fail "$(basename "$program"):"; sed 's/^/    /' "$program.log" | head -n 20
    fi
done

# ---- contents ------------------------------------------------------------------------------

sed -n 's|^//  *\(>>[a-z0-9_]*\)  *.*|\1|p; s|^//  *\(>>[a-z0-9_]*\)$|\1|p' tinytl.h | sed -n '/^>>./p' >"$dir/tags"
sed -n 's|^// \(>>[a-z0-9_]*\): .*|\1|p' tinytl.h >"$dir/banners"
if [ ! -s "$dir/tags" ]; then fail "tinytl.h has no table of contents"
elif diff "$dir/tags" "$dir/banners" >"$dir/contents.diff"; then pass
else fail "tinytl.h: table of contents (<) and chapters (>) differ:"; sed -n 's/^[<>]/    &/p' "$dir/contents.diff"
fi
[ "$(sort "$dir/banners" | uniq -d | wc -l)" -eq 0 ] && pass || fail "tinytl.h: two chapters of one tag"

# ---- places, lines, links ------------------------------------------------------------------

places='(^|[^[:alnum:]_.~$}-])/(hom[e]|wor[k]|roo[t]|User[s])(/|[^[:alnum:]_]|$)'
found=$(find . \( -name .git -o -name build \) -prune -o -type f -exec grep -I -n -E "$places" {} + | head -n 20)
if [ -z "$found" ]; then pass; else fail "a folder of somebody's machine:"; echo "$found"; fi

found=$(awk 'length > 130 { print "    tinytl.h:" NR ": " length " columns" }' tinytl.h | head -n 20)
if [ -z "$found" ]; then pass; else fail "lines longer than 130 columns:"; echo "$found"; fi

found=$(LC_ALL=C grep -n '[^ -~]' tinytl.h | head -n 20)
if [ -z "$found" ]; then pass; else fail "tinytl.h: tabs or characters that are not ASCII:"; echo "$found"; fi

for link in $(grep -o ']([^)]*)' README.md | sed 's/^](\(.*\))$/\1/; s/#.*//' | grep -v '^[a-z]*:' | sort -u); do
    if [ -e "$link" ]; then pass; else fail "README.md links to '$link', which does not exist"; fi
done

echo "check_docs: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
