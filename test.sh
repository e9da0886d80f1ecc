#!/bin/sh
# Runs every check and every test of every module, on both engines: vet, staticcheck, go test -race. It needs Go; where PostgreSQL,
# PgBouncer, wrk or npm is missing it installs them with apt. Arguments go to go test, as in: ./test.sh -short
# The fleet also runs on the oldest and the newest PostgreSQL, which npm downloads into a cache outside the repository.
set -eu
cd "$(dirname "$0")"

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Some tests start, kill and configure servers and poolers of their own, so binaries are needed even where TENANTDB_TEST_POSTGRES_URL
# names the server that the others share.
have_postgresql() {
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

have_wrk() { command -v wrk >/dev/null 2>&1; }

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
for package in postgresql pgbouncer wrk npm; do
    "have_$package" || missing="$missing $package"
done
[ -z "$missing" ] || install $missing
export TENANTDB_REQUIRE_POSTGRES=1
versions="13 18"
go run ./internal/pgtest/fetch $versions

for module in . contrib/gin examples/routers examples/orm stripehook/striptest bench; do
    echo "== $module"
    (
        cd "$module"
        unformatted=$(gofmt -l .)
        [ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted" >&2; exit 1; }
        go vet ./...
        go run "$staticcheck" ./...
        go test -race -timeout 20m "$@" ./...
    )
done
# fmt reads fields that other goroutines write, so this test isn't for the race detector.
echo "== secrets, by every verb"
go test "$@" -run '^TestNoExportedValueShowsASecret$' .
# The race detector makes these tests take a fraction of their load; here they take all of it: a million rows, 100,000 tenants, and
# every step at which a process may be killed, on every engine.
echo "== hostdb and fleet, at full size"
go test -timeout 20m "$@" ./hostdb ./fleet
for version in $versions; do
    echo "== fleet on PostgreSQL $version"
    TENANTDB_TEST_POSTGRES_VERSION=$version go test -timeout 20m "$@" ./fleet
done
echo "== the pool, at full size: 1,000 databases, 200 workers, a minute"
TENANTDB_TEST_FULL=1 go test -timeout 20m -run '^TestAServersOwnLimitIsNeverMet$' .

echo "all modules pass"
