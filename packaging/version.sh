#!/bin/sh
# Prints the version of what is built (SemVer), its commit, or that commit's date:
#
#	version.sh version | commit | date
#
# The version is that of the file VERSION where a commit has its tag, v0.1.0; else one that comes before it:
# 0.1.0-dev.512+g345c114, and +g345c114.dirty where files were changed.
cd "$(dirname "$0")/.." || exit
base=$(cat VERSION)
case $1 in
version)
	if [ "$(git describe --tags --exact-match --dirty 2>/dev/null)" = "v$base" ]; then
		echo "$base"
	elif hash=$(git rev-parse --short HEAD 2>/dev/null); then
		git diff-index --quiet HEAD -- || hash=$hash.dirty
		echo "$base-dev.$(git rev-list --count HEAD)+g$hash"
	else
		echo "$base-dev+unknown"
	fi
	;;
commit) git rev-parse HEAD 2>/dev/null || echo unknown ;;
date) git log -1 --format=%ct 2>/dev/null || echo 0 ;;
*) echo "usage: version.sh version | commit | date" >&2; exit 2 ;;
esac
