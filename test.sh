#!/bin/sh
# Runs every check and every test of every module, on both engines: gofmt, vet, staticcheck, go test -race.
#
#     TENANTDB_INSTALL=1 ./test.sh            install what is missing with apt-get, then run everything
#     ./test.sh                               install nothing; say what is missing and stop
#     ./test.sh -short                        arguments go to go test
#
# Besides Go it needs what the tests start by themselves: PostgreSQL, PgBouncer, wrk, npm, nft and ip. In CI
# (CI=true or CI=1) it installs them, as with TENANTDB_INSTALL=1, unless TENANTDB_INSTALL=0 is set. It needs
# root or sudo for that.
#
# The root package, hostdb and fleet also run on the newest PostgreSQL, hostdb and fleet also on the oldest.
# npm downloads these two servers into a cache outside the repository. To test the versions between them:
#
#     for v in 14 16 17; do
#         go run ./internal/pgtest/fetch $v
#         TENANTDB_TEST_POSTGRES_VERSION=$v go test . ./hostdb ./fleet
#     done
set -eu
cd "$(dirname "$0")"

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The binaries are needed even where TENANTDB_TEST_POSTGRES_URL names a server: some tests start, kill and
# configure servers and poolers of their own.
have_postgresql() {
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}
have_pgbouncer() { command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ]; }
have_wrk() { command -v wrk >/dev/null 2>&1; }
have_npm() { command -v npm >/dev/null 2>&1; }
have_nftables() { command -v nft >/dev/null 2>&1 || [ -x /usr/sbin/nft ]; }
have_iproute2() { command -v ip >/dev/null 2>&1; }

# may_install succeeds where the caller, or CI, allows packages to be installed.
may_install() {
    case "${TENANTDB_INSTALL:-}" in
    "") ;;
    1 | true) return 0 ;;
    *) return 1 ;;
    esac
    case "${CI:-}" in
    1 | true) return 0 ;;
    *) return 1 ;;
    esac
}

# install installs the Debian packages that it is given.
install() {
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo -n"
    # The postgresql package would start a server, which the tests don't need.
    $sudo mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    $sudo apt-get update -q
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

missing=""
for package in postgresql pgbouncer wrk npm nftables iproute2; do
    "have_$package" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if ! may_install; then
        echo "test.sh: missing, by Debian's package names:$missing" >&2
        echo "test.sh: install them yourself, or let test.sh do it with apt-get: TENANTDB_INSTALL=1 ./test.sh" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "test.sh: there is no apt-get; install these yourself (Debian's package names):$missing" >&2
        exit 1
    fi
    echo "test.sh: installing with apt-get:$missing"
    install $missing
fi
export TENANTDB_REQUIRE_POSTGRES=1
go run ./internal/pgtest/fetch 13 18

# SQLite's C code, translated to Go, is not searched for races: instrumented, it would take most of the
# time. Every other package is instrumented. If one that instantiates generic types were left out, the
# linker could keep its copies, in which the detector sees nothing.
uninstrumented=-gcflags=modernc.org/sqlite/lib=-race=false
for module in . contrib/gin contrib/prometheus examples/routers examples/orm stripehook/striptest bench chaos; do
    echo "== $module"
    (
        cd "$module"
        unformatted=$(gofmt -l .)
        [ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted" >&2; exit 1; }
        go vet ./...
        go run "$staticcheck" ./...
        others=./...
        if [ "$module" = . ]; then
            # The root package's tests look at the clock beside real servers, so no other package runs
            # beside them.
            go test -race "$uninstrumented" -timeout 20m "$@" .
            others=$(go list -f '{{if ne .Name "tenantdb"}}{{.ImportPath}}{{end}}' ./...)
        fi
        # shellcheck disable=SC2086
        go test -race "$uninstrumented" -timeout 20m "$@" $others
    )
done
# With the race detector some tests run at a fraction of their size, and one is skipped because it prints
# values that other goroutines write. Here they run at full size: a million rows, 100,000 tenants, every
# step at which a process can be killed, and a pool of 1,000 databases with 200 workers for a minute.
echo "== PostgreSQL 18, at full size"
TENANTDB_TEST_POSTGRES_VERSION=18 TENANTDB_TEST_FULL=1 go test -timeout 20m "$@" .
TENANTDB_TEST_POSTGRES_VERSION=18 TENANTDB_TEST_FULL=1 go test -timeout 20m "$@" ./hostdb ./fleet
echo "== PostgreSQL 13"
TENANTDB_TEST_POSTGRES_VERSION=13 go test -timeout 20m "$@" ./hostdb ./fleet

echo "all modules pass"
