// Quickstart serves two tenants from two databases. It needs nothing but Go: go run ./examples/quickstart
// With -postgres URL the same runs on a PostgreSQL server, with a database for each tenant.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "address to serve on")
	postgres := flag.String("postgres", "",
		"URL of a PostgreSQL database for the host tables, by a role that may create databases")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, *postgres); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. It leaves nothing behind.
func run(ctx context.Context, addr, postgres string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	// the host database, a pool, two tenants, two users, an issuer of tokens
	demo, err := setUp(ctx, postgres)
	if err != nil {
		return err
	}
	defer demo.close()

	auth, err := jwtauth.New(demo.issuer.Config())
	if err != nil {
		return err
	}
	mw, err := tenantdb.New(tenantdb.Config{
		Host:          demo.host,
		Pool:          demo.pool,
		Authenticator: auth,
		Tenant:        tenantdb.FromHeader("X-Tenant"),
		Subscription:  tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}},
		Skip:          []string{"GET /healthz"},
	})
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /notes", listNotes)
	mux.HandleFunc("POST /notes", addNote)
	server := newServer(mw.Handler(mux))
	demo.printCommands(os.Stdout, addr)
	return errors.Join(serve(ctx, server, listener), mw.Close(context.Background()))
}

// newServer returns a server whose memory and connections clients can't exhaust: a request's header may take
// 5 seconds and 32 KiB.
func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10}
}

// serve serves until ctx ends, and then answers the requests under way.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(patience)
}

func listNotes(w http.ResponseWriter, r *http.Request) {
	scope, _ := tenantdb.FromContext(r.Context())
	rows, err := tenantdb.ReadDB(r.Context()).QueryContext(r.Context(), "SELECT author, body FROM notes")
	if err != nil {
		tenantdb.WriteError(w, r, err)
		return
	}
	defer rows.Close()
	fmt.Fprintf(w, "notes of %s, read by its %s %s:\n", scope.Tenant.Name, scope.Role, scope.User.Email)
	for rows.Next() {
		var author, body string
		if err := rows.Scan(&author, &body); err != nil {
			return
		}
		fmt.Fprintf(w, "- %s (%s)\n", body, author)
	}
}

func addNote(w http.ResponseWriter, r *http.Request) {
	scope, _ := tenantdb.FromContext(r.Context())
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1000))
	if err != nil {
		http.Error(w, "at most 1000 bytes", http.StatusRequestEntityTooLarge)
		return
	}
	_, err = tenantdb.DB(r.Context()).ExecContext(r.Context(),
		"INSERT INTO notes (author, body) VALUES ($1, $2)", scope.User.Email, string(body))
	if err != nil {
		tenantdb.WriteError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}
