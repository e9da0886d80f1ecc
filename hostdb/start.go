package hostdb

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// startPause is the pause between two attempts to reach a server.
	startPause    = 250 * time.Millisecond
	maxStartPause = 2 * time.Second // the longest pause of attempts in the background
)

// Started returns a channel that is closed once the database is open. It is closed already when Open
// returns, unless [Config.StartLater] is set.
func (db *DB) Started() <-chan struct{} { return db.started }

// unreachable reports whether an error of opening means that no server could be reached, or that it isn't
// ready.
func unreachable(err error) bool {
	var about *FieldError
	return errors.As(err, &about) && about.Field == "url.host" && about.Err == ErrUnavailable
}

// start opens the database. It retries an unreachable PostgreSQL server until Config.StartTimeout.
func (db *DB) start(ctx context.Context) error {
	open := db.openSQLite
	if db.engine == postgres {
		open = db.openPostgres
	}
	for began := time.Now(); ; {
		err := open(ctx)
		if err == nil {
			db.markStarted(ctx)
			return nil
		}
		if !unreachable(err) || time.Since(began)+startPause > db.config.StartTimeout {
			return err
		}
		db.noteWaiting(ctx, err)
		select {
		case <-time.After(startPause):
		case <-ctx.Done():
			return err
		}
	}
}

// startLater continues in the background where start gave up, until Close.
func (db *DB) startLater(err error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	db.stopStarting = func() { stop(); <-ended }
	db.noteWaiting(ctx, err)
	go func() {
		defer close(ended)
		for pause := startPause; err != nil; pause = min(2*pause, maxStartPause) {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			if err = db.openPostgres(ctx); err != nil && ctx.Err() == nil {
				db.noteWaiting(ctx, err)
			}
		}
		db.markStarted(ctx)
		if err := db.pruneAndVerify(ctx); err != nil && ctx.Err() == nil {
			db.config.Logger.WarnContext(ctx,
				"the host database could not be verified; the feed will try again", "cause", err.Error())
		}
	}()
}

// markStarted lets calls proceed.
func (db *DB) markStarted(ctx context.Context) {
	close(db.started)
	if db.startErr.Load() != nil {
		db.config.Logger.LogAttrs(ctx, slog.LevelInfo, "the host database is open",
			slog.String("url", db.String()))
	}
}

// noteWaiting records why the database can't be opened yet, and logs a reason that is new.
func (db *DB) noteWaiting(ctx context.Context, err error) {
	if before := db.startErr.Swap(&err); before == nil || (*before).Error() != err.Error() {
		db.config.Logger.LogAttrs(ctx, slog.LevelWarn, "waiting for the host database",
			slog.String("url", db.String()), slog.String("cause", err.Error()))
	}
}

// notStarted returns the error of calls before the database is open.
func (db *DB) notStarted() error {
	text := "the database has not been reached yet"
	if cause := db.startErr.Load(); cause != nil {
		text += ": " + (*cause).Error()
	}
	return &failure{kind: ErrUnavailable, text: text}
}

// pruneAndVerify is called once the database is open: a process that never listens to Changes writes changes
// too.
func (db *DB) pruneAndVerify(ctx context.Context) error {
	if err := db.prune(ctx); err != nil {
		return err
	}
	faults, err := db.Verify(ctx)
	db.report(ctx, faults)
	return err
}
