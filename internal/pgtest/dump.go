package pgtest

import (
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Dump returns the output of pg_dump for a database. known is false if the server is newer than every pg_dump
// on this machine.
func Dump(t testing.TB, url string, args ...string) (dump string, known bool) {
	t.Helper()
	program, err := exec.LookPath("pg_dump")
	for _, dir := range debians() {
		if newest, lookErr := exec.LookPath(filepath.Join(dir, "pg_dump")); lookErr == nil {
			program, err = newest, nil
			break
		}
	}
	if err != nil {
		unavailable(t, err)
	}
	version, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatalf("pgtest: pg_dump: %v", err)
	}
	ours, err := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(string(version)))
	if err != nil {
		t.Fatalf("pgtest: pg_dump --version: %q", version)
	}
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer conn.Close(context.Background())
	major, _, _ := strings.Cut(conn.PgConn().ParameterStatus("server_version"), ".")
	if theirs, err := strconv.Atoi(major); err != nil || theirs > ours {
		return "", false
	}
	out, err := exec.Command(program, append(args, "--dbname="+url)...).CombinedOutput()
	if err != nil {
		t.Fatalf("pgtest: pg_dump: %v: %s", err, out)
	}
	// Since the minor releases of August 2025 a dump begins and ends with a random word.
	return regexp.MustCompile(`(?m)^\\(un)?restrict .*$`).ReplaceAllString(string(out), ""), true
}
