#!/usr/bin/env bash
# Tells what came of it: annotations, the job's summary, and the comment on the pull request.
set -euo pipefail

"$EXCISE" ci annotations "$EXCISE_REPORT"

run="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID"
options=(--id "$EXCISE_COMMENT_ID" --link "report and files=$run")
if [ "$EXCISE_RESPONSES" = false ]; then options+=(--no-responses); fi
"$EXCISE" ci comment "$EXCISE_REPORT" "${options[@]}" >> "$GITHUB_STEP_SUMMARY"

if [ "$EXCISE_COMMENT" = true ]; then
    # The verdict stands whether or not the token may write, as on pull requests from forks.
    "$EXCISE" ci post "$EXCISE_REPORT" "${options[@]}" ||
        echo "::warning title=Excise::the comment could not be written; see the job's summary"
fi
