#!/usr/bin/env bash
# Fills in a template: each NAME in dollar braces becomes the value of that environment variable. A
# missing or mistyped variable is an error here, not an empty string in a running gateway.
#
# usage: render.sh TEMPLATE OUTPUT
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 2 ] || die "usage: render.sh TEMPLATE OUTPUT"
template=$1 output=$2
[ -r "$template" ] || die "cannot read the template $template"

text=$(<"$template")
unknown=()
declare -A seen=()
# shellcheck disable=SC2016 # looks for a literal dollar and braces
while read -r name; do
  [ -z "${seen[$name]:-}" ] || continue
  seen[$name]=1
  if [ -z "${!name+set}" ]; then
    unknown+=("$name")
    continue
  fi
  value=${!name}
  # These characters would end the quoted YAML string around the value and begin something else.
  case $value in
    *[\"\\]* | *$'\n'*)
      die "$name holds a quotation mark, a backslash or a line break, which $template cannot take" \
        "set $name to a value without them"
      ;;
  esac
  text=${text//"\${$name}"/"$value"}
done < <(grep -o '\${[A-Za-z_][A-Za-z0-9_]*}' "$template" | tr -d '${}')

[ ${#unknown[@]} -eq 0 ] ||
  die "$template names variables that are not set: ${unknown[*]}" "set them in the environment, or correct the template"

printf '%s\n' "$text" >"$output.new"
mv "$output.new" "$output"
