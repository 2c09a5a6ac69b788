#!/bin/sh
# run_test.sh LOG COMMAND...   Runs a test, keeps what it says and its exit status in LOG, and prints the line with its totals.
# Succeeds always: sum_tests.sh judges.

log=$1
shift
start=$(date +%s)
"$@" >"$log" 2>&1 </dev/null
status=$?
seconds=$(($(date +%s) - start))
printf '  %-16s %4d s  %s\n' "$(basename "$log" .log)" "$seconds" "$(tail -n 1 "$log")"
echo "exit status $status" >>"$log"
