// Package orm shows how sqlc, sqlx, GORM and ent work on the tenant's own database. Each takes the handle
// that the request's context leads to, and none needs to know that there are many tenants.
package orm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/tenantdb/tenantdb"
)

// Notes are the notes of the context's tenant, through one of the libraries.
type Notes interface {
	List(ctx context.Context) ([]string, error)
	// Add adds all notes or none, in one transaction.
	Add(ctx context.Context, bodies ...string) error
}

// errEmpty refuses an empty note, in the middle of a transaction.
var errEmpty = errors.New("an empty note")

// Handler serves notes: GET lists them, POST adds those of a JSON array.
func Handler(notes Notes) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes", func(w http.ResponseWriter, r *http.Request) {
		list, err := notes.List(r.Context())
		if err != nil {
			tenantdb.WriteError(w, r, err)
			return
		}
		_ = json.NewEncoder(w).Encode(list) // an error means that the client has gone
	})
	mux.HandleFunc("POST /notes", func(w http.ResponseWriter, r *http.Request) {
		var bodies []string
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&bodies); err != nil {
			http.Error(w, "send a JSON array of strings", http.StatusBadRequest)
			return
		}
		switch err := notes.Add(r.Context(), bodies...); {
		case errors.Is(err, errEmpty):
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		case err != nil:
			tenantdb.WriteError(w, r, err)
		default:
			w.WriteHeader(http.StatusCreated)
		}
	})
	return mux
}

// check refuses empty notes.
func check(body string) error {
	if body == "" {
		return errEmpty
	}
	return nil
}
