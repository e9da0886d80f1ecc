#!/bin/sh
# Runs every check and every test of every module, on both engines: vet, staticcheck, go test -race. It needs Go.
# Where PostgreSQL, PgBouncer, wrk, npm, nft or ip is missing it installs them with apt. Arguments go to go test, as in:
# ./test.sh -short
# The root package, hostdb and fleet also run on the newest PostgreSQL, hostdb and fleet on the oldest. npm downloads
# these servers into a cache outside the repository. The versions between them:
# for v in 14 16 17; do go run ./internal/pgtest/fetch $v; TENANTDB_TEST_POSTGRES_VERSION=$v go test . ./hostdb ./fleet; done
set -eu
cd "$(dirname "$0")"

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Some tests start, kill and configure servers and poolers of their own, so binaries are needed even where TENANTDB_TEST_POSTGRES_URL
# names the server that the others share.
have_postgresql() {
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

have_wrk() { command -v wrk >/dev/null 2>&1; }

have_nftables() { [ -x /usr/sbin/nft ]; }

have_iproute2() { command -v ip >/dev/null 2>&1; }

have_npm() { command -v npm >/dev/null 2>&1; }

have_pgbouncer() {
    command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ]
}

# install takes the names of Debian packages.
install() {
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo -n"
    command -v apt-get >/dev/null 2>&1 || { echo "test.sh: install what the tests start for themselves: $*" >&2; exit 1; }
    # The package's default cluster isn't wanted.
    $sudo mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    $sudo apt-get update -q
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

missing=""
for package in postgresql pgbouncer wrk npm nftables iproute2; do
    "have_$package" || missing="$missing $package"
done
[ -z "$missing" ] || install $missing
export TENANTDB_REQUIRE_POSTGRES=1
go run ./internal/pgtest/fetch 13 18

# SQLite's C code, translated to Go, is not searched for races. Instrumented, it would take most of the time. No other
# package is left out: one that instantiates generic types would give the linker copies that the detector cannot see into.
uninstrumented=-gcflags=modernc.org/sqlite/lib=-race=false
for module in . contrib/gin examples/routers examples/orm stripehook/striptest bench chaos; do
    echo "== $module"
    (
        cd "$module"
        unformatted=$(gofmt -l .)
        [ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted" >&2; exit 1; }
        go vet ./...
        go run "$staticcheck" ./...
        go test -race "$uninstrumented" -timeout 20m "$@" ./...
    )
done
# The race detector makes some tests take a fraction of their load, and leaves one out that prints what others write.
# On the newest PostgreSQL they take all of it: a million rows, 100,000 tenants, every step at which a process may be
# killed, and a pool of 1,000 databases with 200 workers for a minute.
echo "== PostgreSQL 18, at full size"
TENANTDB_TEST_POSTGRES_VERSION=18 TENANTDB_TEST_FULL=1 go test -timeout 20m "$@" . ./hostdb ./fleet
echo "== PostgreSQL 13"
TENANTDB_TEST_POSTGRES_VERSION=13 go test -timeout 20m "$@" ./hostdb ./fleet

echo "all modules pass"
