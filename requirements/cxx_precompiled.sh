#!/usr/bin/env bash
# g++ ($REAL_CXX) for the build of mmcv: its 78 C++ files include <torch/types.h>, and
# reading that takes most of their time. The first call precompiles it into the folder
# $PRECOMPILED, with its own flags, and all calls use it.
set -euo pipefail
header=$PRECOMPILED/torch_types.h
[[ " $* " == *" -c "* ]] || exec "$REAL_CXX" "$@"  # links

flags=()
previous=
for arg in "$@"; do
  case $previous:$arg in
    -o:* | -MF:* | *:-o | *:-MF | *:-MMD | *:-c | *:*.cpp) ;;  # this call's own files
    *) flags+=("$arg") ;;
  esac
  previous=$arg
done

# Make the header, then try it: g++ takes it only with the flags that it was made with.
precompile() {
  echo '#include <torch/types.h>' >"$header"
  "$REAL_CXX" "${flags[@]}" -x c++-header "$header" -o "$header.gch" &&
    "$REAL_CXX" "${flags[@]}" -include "$header" -Winvalid-pch -Werror=invalid-pch \
      -fsyntax-only -x c++ /dev/null && return
  rm -f "$header.gch"
  echo "torch's header could not be precompiled: mmcv took longer" \
    >"$PRECOMPILED/failed"
}

exec 8>>"$PRECOMPILED/lock"
flock 8
[[ -e $header ]] || precompile
exec 8>&-
[[ -e $header.gch ]] && exec "$REAL_CXX" -include "$header" "$@"
exec "$REAL_CXX" "$@"
