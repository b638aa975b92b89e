#!/usr/bin/env bash
# Runs `excise gate` or `excise ci job` and ends as it ends: 0, 100 or 1.
#
# The runner asks for an end by SIGINT and, seconds later, by SIGTERM. Either is handed on, and a
# job is cancelled on its service before this ends.
set -euo pipefail

output=$EXCISE_OUTPUT
export HF_HOME="$EXCISE_CACHE/hub"
export EXCISE_HOME="${EXCISE_HOME:-$RUNNER_TEMP/excise/home}"
arguments=()
add() { if [ -n "$2" ]; then arguments+=("$1" "$2"); fi; }

case "$EXCISE_MODE" in
gate)
    report="$output/gate.json"
    arguments=(gate --model "$EXCISE_MODEL" --against "$EXCISE_AGAINST" --config "$EXCISE_CONFIG"
        --output "$output" --device "$EXCISE_DEVICE_CHOICE" --cache "$EXCISE_CACHE/figures")
    add --baseline "$EXCISE_BASELINE"
    if [ "$EXCISE_FAIL_IF_WORSE" = true ]; then arguments+=(--fail-if-worse); fi
    ;;
job)
    report="$output/report.json"
    arguments=(ci job "$EXCISE_SPEC" --output "$output")
    add --prompts "$EXCISE_PROMPTS"
    add --reference "$EXCISE_REFERENCE"
    add --perplexity "$EXCISE_PERPLEXITY"
    if [ -n "$EXCISE_SERVICE" ]; then
        arguments+=(--url "$EXCISE_SERVICE")
    else
        arguments+=(--embedded)
    fi
    ;;
*)
    echo "::error title=Excise::mode is '$EXCISE_MODE'; write gate or job" >&2
    echo "exit-code=1" >> "$GITHUB_OUTPUT"
    exit 1
    ;;
esac

rm -f "$report" || true # where that fails, Excise says so, and the comment that there is no verdict
started=$(mktemp)
"$EXCISE" "${arguments[@]}" &
child=$!
trap 'kill -TERM "$child" 2> /dev/null || true' INT TERM HUP
code=0
wait "$child" || code=$?
while kill -0 "$child" 2> /dev/null; do # a signal ends `wait` before the child has ended
    code=0
    wait "$child" || code=$?
done

is_new=false
if [ "$EXCISE_MODE" = gate ] && [[ $code = 0 || $code = 100 ]] && [ -f "$report" ] &&
    ! grep -q '^  "is_against_cached": true' "$report"; then
    is_new=true
    find "$EXCISE_CACHE/figures" -name '*.figures' ! -newer "$started" -delete 2> /dev/null || true
fi
if [ -n "$(find "$EXCISE_CACHE/hub" -newer "$started" -type f -print -quit 2> /dev/null)" ]; then
    is_new=true # a model was fetched
fi
{
    echo "exit-code=$code"
    echo "is-new=$is_new"
    case "$code" in
    0 | 100) if [ -f "$report" ]; then printf 'report=%s\nis-own=true\n' "$report"; fi ;;
    *) if [ ! -e "$report" ]; then echo "is-own=true"; fi ;; # else files of an earlier run remain
    esac # any other code is no verdict, whatever files there are
} >> "$GITHUB_OUTPUT"
exit "$code"
