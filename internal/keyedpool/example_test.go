package keyedpool_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// link stands for a database connection.
type link struct{ database string }

// The life of a request: a lease on its tenant, connections as its queries need them, everything given back.
func Example() {
	pool, err := keyedpool.New(keyedpool.Config[string, *link]{
		Dial: func(_ context.Context, tenant, target string) (*link, error) {
			return &link{target}, nil // pgx.ConnectConfig and the like
		},
		Close: func(ctx context.Context, l *link) error {
			return nil // close it, and read until the server has hung up
		},
		Server: func(tenant, target string) (string, error) {
			server, _, ok := strings.Cut(target, "/")
			if !ok {
				return "", errors.New("the target names no database")
			}
			return server, nil
		},
		Budget:         40, // per server
		AcquireTimeout: 2 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	lease, err := pool.Lease("acme", "db1:5432/acme")
	if err != nil {
		fmt.Println(err)
		return
	}
	owner := keyedpool.Owner{}
	conn, err := lease.Acquire(ctx, &owner)
	if err != nil {
		fmt.Println(err) // errors.Is(err, keyedpool.ErrBusy), …
		return
	}
	fmt.Println(conn.Value().database)
	conn.Release(keyedpool.Healthy)

	// The tenant has moved: the next lease says so, and every lease gets connections to the new place.
	moved, err := pool.Lease("acme", "db2:5432/acme")
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err = lease.Acquire(ctx, &owner)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(conn.Value().database)
	conn.Release(keyedpool.Destroy)

	moved.Release()
	lease.Release()
	fmt.Println(pool.Close(ctx))
	// Output:
	// db1:5432/acme
	// db2:5432/acme
	// <nil>
}

// A shutdown that runs out of time says who still holds what.
func ExamplePool_Close() {
	pool, err := keyedpool.New(keyedpool.Config[string, *link]{
		Dial:   func(_ context.Context, _, target string) (*link, error) { return &link{target}, nil },
		Close:  func(context.Context, *link) error { return nil },
		Server: func(_, target string) (string, error) { return "db1:5432", nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	lease, _ := pool.Lease("acme", "acme")
	conn, _ := lease.Acquire(context.Background(), &keyedpool.Owner{})

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err = pool.Close(ctx)
	fmt.Println(err)

	conn.Release(keyedpool.Healthy) // too late, and harmless
	lease.Release()
	fmt.Println(pool.Close(context.Background()))
	// Output:
	// keyedpool: context deadline exceeded with 1 tenants still held: "acme" (1 leases, 1 connections)
	// <nil>
}
