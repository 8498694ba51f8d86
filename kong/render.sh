#!/usr/bin/env bash
# Copies a configuration file to standard output, with values from the environment.
#
# On a line that ends in a comment `# takes NAME …` the second word is the value,
# and the variable NAME replaces it when it is set and not empty; quotes around it
# and a semicolon after it stay. The file is valid as it stands, so it can be read,
# tested and mounted without this script. kong.yml, nginx-apikeys.conf and
# service-envoy.yaml all use the one rule.
#
#   API_KEY_PREFIX=acme_ render.sh kong.yml > rendered.yml
set -euo pipefail

fail() {
    printf 'render.sh: %s\n' "$1" >&2
    exit 1
}

[[ $# -eq 1 ]] || fail "name one file: render.sh FILE"
[[ -r $1 ]] || fail "cannot read $1; check that it is mounted and readable"

marked='^([[:space:]]*(- )?[^[:space:]#]+[[:space:]]+)("?)([^[:space:]";]+)("?;?)([[:space:]].*# takes ([A-Z][A-Z0-9_]*).*)$'

while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line =~ $marked ]]; then
        before=${BASH_REMATCH[1]}${BASH_REMATCH[3]}
        after=${BASH_REMATCH[5]}${BASH_REMATCH[6]}
        name=${BASH_REMATCH[7]}
        value=${!name:-}
        if [[ -n $value ]]; then
            # Characters of one plain word in YAML and in nginx: no variable can end the value
            # and begin something else.
            [[ $value =~ ^[A-Za-z0-9._~:/@%+=-]+$ ]] ||
                fail "$name holds a character that $1 cannot take; use letters, digits and . _ ~ : / @ % + = -"
            line=$before$value$after
        fi
    elif [[ $line == *'# takes '* && ! $line =~ ^[[:space:]]*# ]]; then
        fail "a line of $1 is marked '# takes' but has no value as its second word: ${line%%#*}"
    fi
    printf '%s\n' "$line"
done <"$1"
