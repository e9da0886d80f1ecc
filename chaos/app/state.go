package app

import (
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// State is a process's report of itself. With ?gc the process collects garbage first, so that Heap is what is
// in use.
type State struct {
	Goroutines, Handles int
	Heap                uint64
	Up                  time.Duration
	HostConns           int // connections to the host database
	Stats               tenantdb.Stats
}

// Sockets returns how many connections the process has to tenants' PostgreSQL servers.
func (s *State) Sockets() int {
	n := 0
	for _, v := range s.Stats.Pool.Servers {
		n += v.Opening + v.Idle + v.Leased + v.Closing
	}
	return n
}

// Busy returns how many of them are being opened or closed, are checked out, or are waited for.
func (s *State) Busy() int {
	n := 0
	for _, v := range s.Stats.Pool.Servers {
		n += v.Opening + v.Leased + v.Closing + v.Waiting
	}
	return n
}

// state answers with the State. It reads /proc/self/fd, which only Linux has.
func (s *service) state(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("gc") {
		runtime.GC()
		runtime.GC() // collects what finalizers freed
	}
	if r.URL.Query().Has("stacks") {
		buf := make([]byte, 4<<20)
		_, _ = w.Write(buf[:runtime.Stack(buf, true)])
		return
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	handles, _ := os.ReadDir("/proc/self/fd")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(State{Goroutines: runtime.NumGoroutine(), Handles: len(handles) - 1,
		Heap: m.HeapAlloc,
		Up:   time.Since(s.began), HostConns: hostConns(s.host.Stats()), Stats: s.mw.Stats()})
}

// hostConns is how many connections to the host database the process has.
func hostConns(s hostdb.Stats) int {
	return s.Write.OpenConnections + s.Read.OpenConnections + s.Lookups.OpenConnections + s.FeedConns
}
