#!/bin/sh
# sum_tests.sh LOG...   Adds up the lines "N passed, N failed" of the logs of run_test.sh, shows what failed, and says the total. A
# test that ends with an error without counting a failure, or counts nothing, is one failure.

for log in "$@"; do
    awk -v name="$(basename "$log" .log)" '
        { line[++lines] = $0 }
        match($0, /[0-9]+ passed, [0-9]+ failed/) {
            split(substr($0, RSTART, RLENGTH), word, " ")
            passed = word[1]; failed = word[3]; counted = 1
        }
        /^exit status / { status = $3 }
        END {
            wrong = status != "0" || !counted
            if (wrong && failed == 0) {
                failed = 1
                print name ": ended with status " status (counted ? "" : " and counted nothing")
                for (i = lines > 20 ? lines - 20 : 1; i <= lines; i++) print "    " line[i]
            } else if (failed > 0) {
                print name ": " failed " failed"
                for (i = 1; i <= lines && shown < 30; i++) {      # failures and what is indented below them
                    show = line[i] ~ /FAILED/ || (show && line[i] ~ /^  /)
                    if (show) { print "    " line[i]; shown++ }
                }
            }
            print "total " passed + 0, failed + 0
        }' "$log" || echo "total 0 1"
done | awk '
    /^total / { passed += $2; failed += $3; next }
    { print }
    END { print passed + 0 " passed, " failed + 0 " failed"; exit failed > 0 || passed == 0 }'
