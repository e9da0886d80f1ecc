package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
)

// writeProfile writes where a request through tenantdb spends its time, as text: one token on one core, and
// many.
func writeProfile(b *Bench, path string) error {
	defer b.close()
	w, err := newWorld(b, b.scale.tokens, min(100, b.scale.tokens))
	if err != nil {
		return err
	}
	keys, err := newKeyPair("RS256")
	if err != nil {
		return err
	}
	requests, err := keys.requests(w, b.scale.tokens)
	if err != nil {
		return err
	}
	h, closed, err := newGuard(ours, keys, w.host, w.pool,
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		return err
	}
	b.onClose(closed)
	var text strings.Builder
	fmt.Fprintf(&text,
		"Profiles of the hot path, written by %s: tenantdb around a handler that does nothing, in process, "+
			"one core.\n", command())
	for _, tokens := range []int{1, len(requests)} {
		top, figures, err := profile(b, h, requests[:tokens])
		if err != nil {
			return err
		}
		fmt.Fprintf(&text,
			"\n== RS256, %d tokens, all of them seen before: %s of CPU, %.1f allocations\n\n%s", tokens,
			nanoseconds(figures[0]), figures[2], top)
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

// profile returns a CPU profile of serving the requests as go tool pprof -top prints it.
func profile(b *Bench, h http.Handler, requests []*http.Request) (top string, figures []float64, err error) {
	dir, err := b.folder()
	if err != nil {
		return "", nil, err
	}
	// so that the profile shows hits only
	if _, err := serveInProcess(h, requests, true, 1, b.scale.slice); err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, "cpu")
	f, err := os.Create(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return "", nil, err
	}
	figures, err = serveInProcess(h, requests, true, 1, 50*b.scale.slice)
	pprof.StopCPUProfile()
	if err != nil {
		return "", nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount=45", program, path).Output()
	if err != nil {
		return "", nil, fmt.Errorf("go tool pprof: %w", err)
	}
	_, top, _ = strings.Cut(string(out), "Type: cpu\n")
	_, top, _ = strings.Cut(top, "\n") // the time of day
	return top, figures, nil
}
