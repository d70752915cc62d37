# What the scripts in this folder share.

need_apt() { # need_apt COMMAND PACKAGE...
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "$1 is missing, and only root can install ${*:2}" >&2
    return 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "${@:2}" >/dev/null
}

version() { # version INTERPRETER: as in 3.14, or 3.14t where it is free-threaded
  "$1" - <<'PYTHON'
import sys, sysconfig

free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(f"{sys.version_info.major}.{sys.version_info.minor}{free}")
PYTHON
}

interpreter() { # interpreter PATTERN: the first whose version is like that
  local each
  for each in ${RINGDISPATCH_PYTHONS:-}; do
    # shellcheck disable=SC2053 # a pattern
    if [[ $(version "$each") == $1 ]]; then
      command -v "$each"
      return
    fi
  done
  echo "RINGDISPATCH_PYTHONS=\"${RINGDISPATCH_PYTHONS:-}\": it needs CPython $1" >&2
  return 2
}

environment() { # environment FOLDER INTERPRETER GROUP...
  # Makes $python, which has the groups, and $suite, a copy of what is in version control.
  suite=$1/suite
  python=$1/venv/bin/python
  mkdir -p "$suite"
  git ls-files -z | xargs -0 cp --parents --target-directory "$suite"
  "$2" -m venv "$1/venv"
  "$python" -m pip install --quiet --upgrade 'pip>=25.1'
  local group groups=()
  for group in "${@:3}"; do groups+=(--group "$suite/pyproject.toml:$group"); done
  "$python" -m pip install --quiet "${groups[@]}"
}
