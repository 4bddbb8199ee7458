#!/usr/bin/env bash
# Builds nodescope-agent for old and new Linux alike: it needs glibc 2.17 (2012) or newer, and no other library.
#
#   deploy/build-agent.sh [--arch x86_64|aarch64] [--deb] [--tar]
#
# --deb makes a Debian package of it, --tar an archive for everything else. What is made lies in dist/ below Cargo's
# target folder, with SHA256SUMS.
#
# A binary runs with the glibc it was linked against and newer ones. Zig's C compiler brings the symbols of every
# version of glibc, so it can link against an old one on a new system, and for another processor as well; cargo-zigbuild
# lets Cargo use it. musl would need no glibc at all, but then no vendor's library could be opened: those are made for
# glibc.
#
# It needs Rust, Python 3 with venv, perl and make (OpenSSL and librdkafka are compiled) and readelf. Zig,
# cargo-zigbuild and, unless it is installed, cargo-deb are fetched into the cache.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

glibc=2.17
ziglang=0.17.1
cargo_zigbuild=0.24.1

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

arch=$(uname -m)
make_deb=
make_tar=
while (($#)); do
  case $1 in
    --arch) arch=${2:-}; shift 2 || usage ;;
    --deb) make_deb=1; shift ;;
    --tar) make_tar=1; shift ;;
    *) usage ;;
  esac
done
case $arch in
  x86_64 | aarch64) target=$arch-unknown-linux-gnu ;;
  *) usage ;;
esac

has() { command -v "$1" >/dev/null 2>&1; }
for tool in cargo python3 perl make readelf; do
  has "$tool" || { echo "$tool is needed" >&2; exit 1; }
done
if has rustup; then
  rustup target list --installed | grep -qx "$target" || rustup target add "$target"
fi

target_dir=${CARGO_TARGET_DIR:-target}
mkdir -p "$target_dir/dist"
target_dir=$(cd "$target_dir" && pwd)
dist=$target_dir/dist
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nodescope

# Zig and cargo-zigbuild, from PyPI.
zig=$cache/zig-$ziglang-$cargo_zigbuild
if [[ ! -x $zig/bin/cargo-zigbuild ]]; then
  python3 -m venv "$zig"
  "$zig/bin/pip" install --quiet "ziglang==$ziglang" "cargo-zigbuild==$cargo_zigbuild"
fi
export PATH="$zig/bin:$PATH"
export CARGO_ZIGBUILD_PYTHON_PATH="$zig/bin/python3"

# cargo-zigbuild tells its compiler to build scripts as CC_<target>, which OpenSSL's, zlib's and zstd's ask for.
# librdkafka has a configure script of its own, which knows CC alone. What is compiled for this machine has HOST_CC.
wrappers=$(mktemp -d)
trap 'rm -rf "$wrappers"' EXIT
for tool in cc c++; do
  printf '#!/bin/sh\nexec cargo-zigbuild zig %s -- -g -target %s-linux-gnu.%s "$@"\n' "$tool" "$arch" "$glibc" \
    >"$wrappers/zig-$tool"
done
for tool in ar ranlib; do
  printf '#!/bin/sh\nexec cargo-zigbuild zig %s "$@"\n' "$tool" >"$wrappers/zig-$tool"
done
chmod +x "$wrappers"/*
export HOST_CC=${HOST_CC:-cc} HOST_CXX=${HOST_CXX:-c++} HOST_AR=${HOST_AR:-ar}
export CC=$wrappers/zig-cc CXX=$wrappers/zig-c++ AR=$wrappers/zig-ar RANLIB=$wrappers/zig-ranlib
# librdkafka also links a shared library, which nobody uses, with a list of symbols of which one is not there. GNU's
# linker does not mind, Zig's does.
export LDFLAGS="-Wl,--undefined-version ${LDFLAGS:-}"
# It must not find the libraries of this system.
export PKG_CONFIG=/bin/false
[[ -x $PKG_CONFIG ]] || export PKG_CONFIG=/usr/bin/false

# It is copied to every server and runs all the time: as small as it gets without becoming slower.
export CARGO_PROFILE_RELEASE_LTO=${CARGO_PROFILE_RELEASE_LTO:-fat}
export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=${CARGO_PROFILE_RELEASE_CODEGEN_UNITS:-1}
export CARGO_PROFILE_RELEASE_STRIP=${CARGO_PROFILE_RELEASE_STRIP:-symbols}

cargo zigbuild --release --locked --package nodescope-agent --bin nodescope-agent --features portable \
  --target "$target.$glibc"

binary=$target_dir/$target/release/nodescope-agent
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

# The newest symbol of glibc decides on which systems it starts. readelf reads every processor's files.
newest=$(readelf --wide --version-info "$binary" | grep -oE 'GLIBC_[0-9]+(\.[0-9]+)+' | sort -uV | tail -n 1)
newest=${newest#GLIBC_}
if [[ -z $newest || $(printf '%s\n' "$newest" "$glibc" | sort -V | tail -n 1) != "$glibc" ]]; then
  echo "$binary needs glibc ${newest:-of an unknown version}, and was to need $glibc" >&2
  exit 1
fi
# Only what belongs to glibc.
if others=$(readelf --wide --dynamic "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
  grep -vE '^(lib(c|m|dl|rt|pthread|resolv|util)\.so\.[0-9]+|ld-linux.*)$'); then
  echo "$binary needs libraries that a host may not have:" $others >&2
  exit 1
fi
# A librdkafka without TLS, SCRAM or zstd builds as well, and refuses these settings.
if [[ $arch == "$(uname -m)" ]]; then
  echo secret >"$wrappers/password"
  said=$(NODESCOPE_KAFKA_SECURITY=sasl_tls NODESCOPE_KAFKA_USER=build NODESCOPE_KAFKA_PASSWORD_FILE=$wrappers/password \
    "$binary" check --brokers 127.0.0.1:1 --data "$wrappers/data" || true)
  broker=$(grep '^Broker:' <<<"$said" || true)
  if [[ -z $broker || $broker == *"config error"* || $broker == *"creation error"* ]]; then
    echo "its Kafka client cannot do what it must: ${broker:-it said nothing of the broker}" >&2
    exit 1
  fi
fi
install -m 0755 "$binary" "$dist/nodescope-agent-$arch"
made=("nodescope-agent-$arch")
echo "$dist/nodescope-agent-$arch: $(stat -c %s "$binary") bytes, glibc $newest"

if [[ -n $make_deb ]]; then
  if ! cargo deb --version >/dev/null 2>&1; then
    export PATH="$cache/cargo-deb/bin:$PATH"
    # For this machine, so with its own compiler and an ordinary profile.
    has cargo-deb || env -u CC -u CXX -u AR -u RANLIB -u LDFLAGS -u PKG_CONFIG -u CARGO_PROFILE_RELEASE_LTO \
      -u CARGO_PROFILE_RELEASE_CODEGEN_UNITS cargo install --quiet --locked --root "$cache/cargo-deb" cargo-deb
  fi
  deb=nodescope-agent_${version}-1_$([[ $arch == x86_64 ]] && echo amd64 || echo arm64).deb
  cargo deb --no-build --no-strip --package nodescope-agent --target "$target" --output "$dist/$deb"
  made+=("$deb")
fi

if [[ -n $make_tar ]]; then
  name=nodescope-agent-$version-linux-$arch
  folder=$wrappers/$name
  install -d "$folder/docs"
  install -m 0755 "$binary" "$folder/nodescope-agent"
  install -m 0644 deploy/agent.toml deploy/systemd/nodescope-agent.service deploy/systemd/examples/privileges.conf \
    LICENSE "$folder"
  install -m 0644 docs/*.md "$folder/docs"
  tar --create --gzip --owner=0 --group=0 --numeric-owner --directory "$wrappers" --file "$dist/$name.tar.gz" "$name"
  made+=("$name.tar.gz")
fi

(cd "$dist" && sha256sum "${made[@]}" | tee SHA256SUMS)
