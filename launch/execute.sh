# shellcheck shell=bash
# Functions for scripts that can print their commands instead of running them; to be sourced.

dry_run=0 # 1: print commands and run none.

# Ends the script with one line that names the mistake and how to correct it.
fail() {
  echo "error: $*" >&2
  exit 2
}

# Prints words so that a shell reads them back unchanged. It uses POSIX quotes, because the result
# may be sent through ssh to any shell, and because bash 3.2 (macOS) lacks ${word@Q}.
quote() {
  local word flag space='' option='^--[A-Za-z0-9_.-]+='
  for word in "$@"; do
    flag=
    # --flag='a value' is easier to read than '--flag=a value'.
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

# Prints a command on stderr and runs it. With dry_run: prints it on stdout only, for copying.
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
