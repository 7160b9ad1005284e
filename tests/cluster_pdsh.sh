#!/bin/sh
# Stands in for pdsh where that is not installed, as far as DeepSpeed's launcher needs it:
#   pdsh -S -f FANOUT -w HOST,HOST COMMAND...
# runs COMMAND on all hosts at once over ssh, with %n as the host's number from 0, puts "HOST: "
# before each line, and ends with the largest exit code.
hosts=
while :; do
  case $1 in
    -w) hosts=$2; shift 2 ;;
    -f) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
codes=$(mktemp -d)
trap 'kill $all 2>/dev/null' INT TERM
all=
number=0
for host in $(echo "$hosts" | tr , ' '); do
  command=$(printf '%s' "$*" | sed "s/%n/$number/g")
  {
    ssh "$host" "$command" 2>&1 </dev/null
    echo $? >"$codes/$number"
  } | sed -u "s/^/$host: /" &
  all="$all $!"
  number=$((number + 1))
done
for each in $all; do wait "$each"; done
code=$(sort -n "$codes"/* | tail -n 1)
rm -r "$codes"
exit "${code:-1}"
