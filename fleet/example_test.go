package fleet_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing/fstest"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// Work for every tenant: fill a column that a migration has added.
func ExampleFleet_Each() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "tenants")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	host, err := hostdb.Open(ctx, "sqlite::memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close(ctx)
	migrations := fstest.MapFS{"00001_notes.sql": {Data: []byte(`-- +goose Up
CREATE TABLE notes (body TEXT NOT NULL, words INTEGER);
INSERT INTO notes (body) VALUES ('two words');
`)}}
	tenants, err := fleet.New(fleet.Config{Host: host, Pool: pool, Migrations: migrations})
	if err != nil {
		log.Fatal(err)
	}
	owner := &hostdb.GlobalUser{OAuthID: "auth0|ann", Email: "ann@example.com"}
	if err := host.Users.Insert(ctx, owner); err != nil {
		log.Fatal(err)
	}
	for _, slug := range []string{"acme", "globex", "initech"} {
		_, err := tenants.Provision(ctx, fleet.Spec{Slug: slug, Name: slug, OwnerID: owner.ID})
		if err != nil {
			log.Fatal(err)
		}
	}

	// One tenant goes first. If it fails, no other one begins.
	options := fleet.EachOptions{Canary: []string{"globex"}, Parallel: 8, PerServer: 2}
	report, err := tenants.Each(ctx, options, func(ctx context.Context, tenant *fleet.Tenant) error {
		_, err := tenant.DB().ExecContext(ctx, `UPDATE notes
			SET words = 1 + length(body) - length(replace(body, ' ', '')) WHERE words IS NULL`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Done, "done,", report.Failed, "failed")
	// Output: 3 done, 0 failed
}
