package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func openMem(opts Options) (engine, error) {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 1 << 30
	}
	return openEmbedded("data", vfs.NewMem(), false, opts)
}

func openFile(dir string, opts Options) (engine, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: file: names a directory", ErrConfig)
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 8 << 30
	}
	return openEmbedded(dir, vfs.Default, true, opts)
}

func openEmbedded(dir string, files vfs.FS, durable bool, opts Options) (*embedded, error) {
	e := &embedded{
		opts: opts, durable: durable,
		slots: make([]slotState, slots),
		notes: newNotifier(opts.Logger),
	}
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	lock, err := pebble.LockDirectory(dir, files)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: directory %s (%w)", ErrLocked, dir, err)
	}
	cache := pebble.NewCache(64 << 20)
	defer cache.Unref() // the database holds it from here on
	e.db, err = pebble.Open(dir, &pebble.Options{
		FS:           files,
		Lock:         lock,
		Cache:        cache,
		DisableWAL:   !durable,
		MemTableSize: 64 << 20,
		// Old data of an earlier Pebble is taken along; never go on with one that is newer.
		FormatMajorVersion:          pebble.FormatNewest,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		MemTableStopWritesThreshold: 4,
		Levels:                      [7]pebble.LevelOptions{{FilterPolicy: bloom.FilterPolicy(10)}},
		Logger:                      pebbleLogger{opts.Logger, &e.ended},
	})
	if err != nil {
		_ = lock.Close() // best effort: the error that counts is the one above
		return nil, openError(dir, err)
	}
	if err := e.prepare(dir); err != nil {
		_ = lock.Close()
		return nil, errors.Join(err, e.db.Close())
	}
	e.lock = lock
	e.start()
	return e, nil
}

// prepare checks the format and makes what decisions need.
func (e *embedded) prepare(dir string) error {
	if err := e.checkFormat(dir); err != nil {
		return err
	}
	if e.durable {
		e.sync = newSyncer(e.db, &e.ended)
	}
	e.space = newSpace(e.db, dir, e.durable, e.opts)
	var err error
	e.clock, err = newClock(e)
	return err
}

// checkFormat writes the version into an empty database and refuses data of another one.
func (e *embedded) checkFormat(dir string) error {
	b, closer, err := e.db.Get(formatKey)
	if errors.Is(err, pebble.ErrNotFound) {
		if err := e.db.Set(formatKey, []byte(formatVersion), &pebble.WriteOptions{Sync: e.durable}); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return e.ended.get()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	found := string(b)
	if err := closer.Close(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if found != formatVersion {
		return fmt.Errorf("%w: %s has format %.20q, this version reads %q", ErrNewer, dir, found, formatVersion)
	}
	return nil
}

func openError(dir string, err error) error {
	if strings.Contains(err.Error(), "format major version") {
		return fmt.Errorf("%w: %s: %w", ErrNewer, dir, err)
	}
	return fmt.Errorf("%w: open %s: %w", ErrUnavailable, dir, err)
}

// pebbleLogger keeps Pebble from ending the process: what it calls fatal ends this engine. Its
// routine messages are of no use to an operator.
type pebbleLogger struct {
	log   *slog.Logger
	ended *failure
}

func (l pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("store: engine", "error", fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	l.log.Error("store: engine has ended", "error", err)
	l.ended.set(err)
}

const (
	sweepEvery   = 100 * time.Millisecond
	clockReserve = time.Second
)
