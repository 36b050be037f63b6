# shellcheck shell=bash
# For scripts that can print what they would run: sourced, it gives them `fail`, `quote`, `execute`.

dry_run=0 # 1: print commands, run none.

# Ends the script with one line that names the user's mistake and the mend.
fail() {
  echo "error: $*" >&2
  exit 2
}

# Prints words so that a shell reads them back unchanged. Plain POSIX quotes: what is printed may go
# through ssh to any shell, and bash 3.2 (macOS) has no ${word@Q}.
quote() {
  local word flag space='' option='^--[A-Za-z0-9_.-]+='
  for word in "$@"; do
    flag=
    # --flag='a value' reads better than '--flag=a value'.
    if [[ $word =~ $option ]]; then flag=${BASH_REMATCH[0]}; fi
    printf '%s%s' "$space" "$flag"
    quote_value "${word#"$flag"}" "$flag"
    space=' '
  done
}

quote_value() {
  local rest=$1 flag=$2 quoted=
  if [[ $rest != *[!A-Za-z0-9_@%+=:,./-]* && -n $rest$flag ]]; then
    printf '%s' "$rest"
    return
  fi
  while [[ $rest == *\'* ]]; do
    quoted+="${rest%%\'*}'\\''"
    rest=${rest#*\'}
  done
  printf "'%s'" "$quoted$rest"
}

# Runs a command, and shows it; with dry_run it only shows it, to be copied.
execute() {
  if ((dry_run)); then
    quote "$@"
    echo
    return
  fi
  {
    printf '+ '
    quote "$@"
    echo
  } >&2
  "$@"
}
