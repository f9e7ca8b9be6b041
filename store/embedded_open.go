package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleFormat is the format of the files below our own. Raising it keeps older versions of
// this package from opening the directory.
const pebbleFormat = pebble.FormatValueSeparation

const (
	memBytes  = 1 << 30
	fileBytes = 8 << 30
	leastSize = 4 << 20 // Pebble's own files and buffers need some room
)

func openMem(opts Options) (engine, error) {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = memBytes
	}
	return openEmbedded("data", vfs.NewMem(), false, opts)
}

func openFile(url string, opts Options) (engine, error) {
	dir, err := fileDir(url)
	if err != nil {
		return nil, err
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = fileBytes
	}
	return openReopening(opts, func() (*embedded, error) {
		_, missing := os.Stat(dir)
		e, err := openEmbedded(dir, vfs.Default, true, opts)
		if err == nil && missing != nil {
			err = os.Chmod(dir, 0o700) // Pebble makes it readable for everybody on the machine
		}
		return e, err
	})
}

// fileDir is the directory that a file: URL names: file:rel, file:/abs or file:///abs. The
// name is taken as it stands and made absolute without links, because a second Open in the
// same process is told by the name alone.
func fileDir(url string) (string, error) {
	dir := strings.TrimPrefix(url, "file:")
	if after, ok := strings.CutPrefix(dir, "//"); ok {
		if dir = after; !strings.HasPrefix(dir, "/") {
			return "", fmt.Errorf("%w: file: has no host; write file:DIR or file:///DIR", ErrConfig)
		}
	}
	if dir == "" || strings.ContainsAny(dir, "?#\x00") {
		return "", fmt.Errorf("%w: write file:DIR; the name is taken as it stands, and without ? and #", ErrConfig)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return dir, nil
}

func openEmbedded(dir string, files vfs.FS, durable bool, opts Options) (*embedded, error) {
	if opts.MaxBytes < leastSize {
		return nil, fmt.Errorf("%w: MaxBytes is less than %d", ErrConfig, leastSize)
	}
	if err := checkForeign(dir, files); err != nil {
		return nil, err
	}
	e := &embedded{
		opts: opts, durable: durable,
		slots: make([]slotState, slots),
		clock: newClock(opts.Clock),
		notes: newNotifier(opts.Logger),
		ended: newFailure(),
		guard: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	var err error
	if e.db, err = pebble.Open(dir, e.pebbleOptions(newDisk(files, e.ended))); err != nil {
		e.cancel()
		return nil, openError(dir, errors.Join(err, e.ended.cause()))
	}
	if err := e.prepare(dir, files); err != nil {
		return nil, errors.Join(err, e.abandon())
	}
	e.start()
	return e, nil
}

func (e *embedded) pebbleOptions(disk *disk) *pebble.Options {
	memTable := uint64(min(64<<20, e.opts.MaxBytes/8))
	o := &pebble.Options{
		FS:           disk,
		DisableWAL:   !e.durable,
		CacheSize:    64 << 20,
		MemTableSize: memTable,
		// A writer that waits for memory holds a slot's lock, so there is a lot of it.
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		FormatMajorVersion:          pebbleFormat,
		Logger:                      pebbleLogger{e.opts.Logger, e.ended},
		EventListener: &pebble.EventListener{
			WriteStallBegin: e.stall.begin,
			WriteStallEnd:   e.stall.end,
			DataCorruption: func(info pebble.DataCorruptionInfo) { // else it is fatal; the read that met it fails
				e.opts.Logger.Error("store: corrupt file", "path", info.Path, "error", info.Details)
			},
		},
	}
	o.Levels[0].FilterPolicy = bloom.FilterPolicy(10) // the other levels do the same
	return o
}

// prepare checks the format and makes what decisions need.
func (e *embedded) prepare(dir string, files vfs.FS) error {
	if err := e.ended.cause(); err != nil { // of which Pebble knows nothing; see disk
		return openError(dir, err)
	}
	if err := e.checkFormat(dir); err != nil {
		return err
	}
	e.space = &space{
		db: e.db, files: files, dir: dir, disk: e.durable,
		maxBytes: e.opts.MaxBytes, minFree: e.opts.MinFree, log: e.opts.Logger,
	}
	e.space.measure()
	if !e.durable {
		return nil
	}
	if err := e.clock.load(e.db); err != nil {
		return err
	}
	if ahead := e.clock.last.Load() - e.opts.Clock().UnixMicro(); ahead > 2*clockReserve.Microseconds() {
		e.opts.Logger.Warn("store: the wall clock was set back; time stands still until it has caught up", "seconds", ahead/1e6)
	}
	e.sync = newSyncer(e.db, e.ended, e.notes)
	mark := e.clock.next()
	if err := e.writeClock(mark); err != nil {
		return err
	}
	e.clock.advance(mark)
	return nil
}

// abandon closes what prepare did not finish.
func (e *embedded) abandon() error {
	e.cancel()
	if e.sync != nil {
		e.sync.close()
	}
	return e.db.Close()
}

// checkForeign refuses a directory in which something else lives, before Pebble, which removes
// files that have names like its own, sees it.
func checkForeign(dir string, files vfs.FS) error {
	names, err := files.List(dir)
	if err != nil || len(names) == 0 {
		return nil // it does not exist, or Open will say what is wrong
	}
	desc, err := pebble.Peek(dir, files)
	if err != nil {
		return openError(dir, err)
	}
	if desc.Exists && desc.FormatMajorVersion > pebbleFormat {
		return fmt.Errorf("%w: %s has files of format %d, this version reads %d", ErrNewer, dir, desc.FormatMajorVersion, pebbleFormat)
	}
	if !desc.Exists && !slices.Contains(names, "LOCK") { // which is there when a first Open was cut short
		return fmt.Errorf("%w: %s is not empty and not a store", ErrConfig, dir)
	}
	return nil
}

// checkFormat writes the version into an empty database and refuses data of another one.
func (e *embedded) checkFormat(dir string) error {
	b, closer, err := e.db.Get(formatKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return e.writeFormat(dir)
	}
	if err != nil {
		return fmt.Errorf("%w: read the format: %w", ErrUnavailable, err)
	}
	found := string(b)
	if err := closer.Close(); err != nil {
		return fmt.Errorf("%w: read the format: %w", ErrUnavailable, err)
	}
	if found == formatDeadlineAt {
		return e.setFormat() // all that it holds is so in this version too
	}
	if found != formatVersion {
		return fmt.Errorf("%w: %s has format %.20q, this version reads %q", ErrNewer, dir, found, formatVersion)
	}
	return nil
}

func (e *embedded) writeFormat(dir string) error {
	it, err := e.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if used {
		return fmt.Errorf("%w: %s holds a Pebble database that is not a store", ErrConfig, dir)
	}
	return e.setFormat()
}

func (e *embedded) setFormat() error {
	if err := e.db.Set(formatKey, []byte(formatVersion), &pebble.WriteOptions{Sync: e.durable}); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return e.ended.get()
}

// openError sorts what Pebble says when it opens a directory.
func openError(dir string, err error) error {
	var path *fs.PathError // a lock that is held by another process comes without one
	switch {
	case !errors.As(err, &path) && (errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES)),
		strings.Contains(err.Error(), "lock held by current process"):
		return fmt.Errorf("%w: directory %s: %w", ErrLocked, dir, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", ErrConfig, err)
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
