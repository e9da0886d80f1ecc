package rough

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// disks is a world with small disks: one holds a tenants' server, one the SQLite files.
var disks = World{Name: "disks", needs: []need{ip}, size: smallDisks, faults: []rig.Fault{
	{Name: "disk of a tenants' server full for 20 s: tables", Settle: 8 * time.Second, Do: tablesDontFit},
	{Name: "disk of a tenants' server full for 20 s: its log, it ends", Settle: 8 * time.Second,
		Do: logDoesntFit},
	{Name: "disk of SQLite files full for 20 s", Settle: 6 * time.Second, Do: filesDontFit},
}}

// serverDisk and fileDisk are where the small disks of this process's world are.
var serverDisk, fileDisk string

func smallDisks(dir string) (rig.Size, error) {
	serverDisk, fileDisk = filepath.Join(dir, "disk"), filepath.Join(dir, "tenants")
	if err := errors.Join(mount(serverDisk, 400), mount(fileDisk, 40)); err != nil {
		return rig.Size{}, err
	}
	usual := os.Getenv("TMPDIR")
	if err := os.Setenv("TMPDIR", serverDisk); err != nil {
		return rig.Size{}, err
	}
	// No segment of the log is kept for reuse, so that the next one needs space.
	p, err := rig.NewPair("server on a small disk", false, "max_connections=60",
		"superuser_reserved_connections=6", "min_wal_size=32MB",
		"max_wal_size=48MB", "wal_recycle=off")
	if err := errors.Join(err, os.Setenv("TMPDIR", usual)); err != nil {
		return rig.Size{}, err
	}
	return rig.Size{Given: []*rig.Pair{p}, Servers: 2, Tenants: 6, Files: 10, Processes: 2, Budget: 16,
		Rate: 60, Dir: dir, NoStandbys: true}, nil
}

// mount makes a disk of some megabytes.
func mount(dir string, megabytes int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0755", megabytes))
}

// fill takes all space of a disk. The returned function gives it back.
func fill(disk string) (free func() error, err error) {
	path := filepath.Join(disk, "filler")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, 1<<16)
	for size := len(block); size >= 512; {
		if _, err = f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return nil, fmt.Errorf("the disk isn't full: %w", err)
	}
	return func() error { return os.Remove(path) }, nil
}

// full fills a disk for a while, under many writes of its tenants. They must be refused.
func full(w *rig.World, t *rig.Trial, disk string, of *rig.Pair, meanwhile, after func() error) error {
	t.Spares = elsewhere(of)
	began := time.Now()
	stop := w.Hammer(w.Of(of)...)
	defer stop()
	free, err := fill(disk)
	if err != nil {
		return err
	}
	if err := meanwhile(); err != nil {
		return errors.Join(err, free())
	}
	pause(20 * time.Second)
	refused := 0
	for _, s := range w.Load.Look(began) {
		if s.Failed() && s.Client.Tenant.Pair == of {
			refused++
		}
	}
	if refused == 0 {
		t.Problem("no request failed while the disk was full")
	}
	if err := errors.Join(free(), after()); err != nil {
		return err
	}
	t.Mended()
	pause(6 * time.Second)
	return nil
}

func nothing() error { return nil }

func tablesDontFit(w *rig.World, t *rig.Trial) error {
	return full(w, t, serverDisk, w.Pairs[0], nothing, nothing)
}

// logDoesntFit makes the server need another segment of its write-ahead log. The server panics, and ends
// because it can't recover without space either. It is started again when there is space.
func logDoesntFit(w *rig.World, t *rig.Trial) error {
	s := w.Pairs[0].Primary()
	return full(w, t, serverDisk, w.Pairs[0], func() error {
		_ = s.Exec("postgres", "SELECT pg_switch_wal()", "CREATE TABLE needs_log ()",
			"SELECT pg_switch_wal()", "DROP TABLE needs_log")
		return nil
	}, func() error {
		if s.Exec("postgres", "SELECT 1") == nil {
			t.Note("the server did not end")
			return nil
		}
		s.Kill()
		return s.Start()
	})
}

func filesDontFit(w *rig.World, t *rig.Trial) error {
	return full(w, t, fileDisk, nil, nothing, nothing)
}
