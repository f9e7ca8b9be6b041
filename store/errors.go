package store

import "errors"

// What can come back, wrapped with detail. Each says what became of the write.
var (
	// ErrUnavailable: nothing was written. Safe to retry.
	ErrUnavailable = errors.New("store: unavailable")
	// ErrOutcomeUnknown: the decision was sent, or applied and not yet on disk, and no
	// answer came. It may have happened. Decide it again only when that is idempotent.
	ErrOutcomeUnknown = errors.New("store: outcome unknown")
	// ErrFull: the engine is at its bound and wrote nothing. Decisions that only delete
	// still pass on the embedded engine.
	ErrFull = errors.New("store: full")
	// ErrWrongType: a key holds another type than the decision expects.
	ErrWrongType = errors.New("store: wrong type")
	// ErrRange: an integer is beyond ±2^53, where a Lua number is no longer exact.
	ErrRange = errors.New("store: integer out of range")
	// ErrSlot: the keys of one decision do not share a hash slot. A programming error.
	ErrSlot = errors.New("store: keys in different slots")
	// ErrCorrupt: a stored value cannot be read. Nothing was written.
	ErrCorrupt = errors.New("store: corrupt value")
	// ErrClosed: the store was closed by this process. Nothing was written.
	ErrClosed = errors.New("store: closed")
	// ErrLocked: another process has the directory.
	ErrLocked = errors.New("store: in use by another process")
	// ErrNewer: the directory was written by a newer version of this package.
	ErrNewer = errors.New("store: data of a newer format")
	// ErrConfig: the URL or an option is wrong, or states what is not true of the engine.
	ErrConfig = errors.New("store: configuration")
)
