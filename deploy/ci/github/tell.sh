#!/usr/bin/env bash
# Tells what came of it: annotations, the job's summary, and the comment on the pull request.
# Without a report there is no verdict, and the comment must not go on showing an earlier one.
set -euo pipefail

report=()
if [ -n "$EXCISE_REPORT" ]; then
    report=("$EXCISE_REPORT")
    "$EXCISE" ci annotations "$EXCISE_REPORT"
else
    echo "::error title=Excise::there is no verdict; the log of the step Judge says why"
fi

run="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID"
options=(--id "$EXCISE_COMMENT_ID" --link "report and files=$run")
if [ "$EXCISE_RESPONSES" = false ]; then options+=(--no-responses); fi
"$EXCISE" ci comment "${report[@]}" "${options[@]}" >> "$GITHUB_STEP_SUMMARY"

if [ "$EXCISE_COMMENT" = true ]; then
    # The verdict stands whether or not the token may write, as on pull requests from forks.
    "$EXCISE" ci post "${report[@]}" "${options[@]}" --author "$EXCISE_AUTHOR" ||
        echo "::warning title=Excise::the comment could not be written; see the job's summary"
fi
