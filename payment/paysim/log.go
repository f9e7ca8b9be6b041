package paysim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/payment"
)

// Line is one effect, as the log has it.
type Line struct {
	At        time.Time      `json:"at"`
	Op        string         `json:"op"` // authorise, capture, void, refund
	Ref       string         `json:"ref"`
	Amount    int64          `json:"amount,omitempty"`
	Currency  string         `json:"currency,omitempty"`
	Outcome   payment.Status `json:"outcome"`
	NoCapture bool           `json:"no_capture,omitempty"` // every capture will be refused
	Reason    string         `json:"reason,omitempty"`
}

// book is the log and what follows from it.
type book struct {
	mu   sync.Mutex
	file *os.File
	refs map[string]*entry

	// Lines that were written while one sync ran share the next.
	written, synced uint64
	syncing         bool
	cond            *sync.Cond
	err             error // the first failure; nothing is done after it
}

type entry struct {
	status    payment.Status
	amount    int64
	currency  string
	noCapture bool
	reason    string
	line      uint64 // its last line; no answer tells of it before that is on disk
}

// maxLine bounds a line; requests are bounded below it.
const maxLine = 4096

// errDamaged: the log has a line, not the last, that cannot be read.
var errDamaged = errors.New("paysim: the log is damaged")

func openBook(path string) (*book, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("paysim: %w", err)
	}
	b := &book{file: f, refs: map[string]*entry{}}
	b.cond = sync.NewCond(&b.mu)
	if err := b.replay(path); err != nil {
		_ = f.Close() // best effort: the error that counts is the one above
		return nil, err
	}
	return b, nil
}

// replay reads the log. A last line without its end was being written when the process died:
// nobody was answered, and it is cut off.
func (b *book) replay(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("paysim: %w", err)
	}
	lines, whole, err := parseLog(data)
	if err != nil {
		return fmt.Errorf("%w of %s", err, path)
	}
	for _, l := range lines {
		b.apply(l)
	}
	if err := b.file.Truncate(int64(whole)); err != nil {
		return fmt.Errorf("paysim: %w", err)
	}
	if _, err := b.file.Seek(int64(whole), 0); err != nil {
		return fmt.Errorf("paysim: %w", err)
	}
	return nil
}

// parseLog returns the lines, and how many bytes of data are whole lines.
func parseLog(data []byte) (lines []Line, whole int, err error) {
	for whole < len(data) {
		end := bytes.IndexByte(data[whole:], '\n')
		if end < 0 {
			break
		}
		var l Line
		if err := json.Unmarshal(data[whole:whole+end], &l); err != nil || l.Ref == "" {
			return nil, 0, fmt.Errorf("%w at byte %d", errDamaged, whole)
		}
		lines = append(lines, l)
		whole += end + 1
	}
	return lines, whole, nil
}

func (b *book) apply(l Line) {
	e := b.refs[l.Ref]
	if e == nil {
		e = &entry{}
		b.refs[l.Ref] = e
	}
	if l.Op == "authorise" {
		e.amount, e.currency, e.noCapture = l.Amount, l.Currency, l.NoCapture
	}
	e.status, e.reason, e.line = l.Outcome, l.Reason, b.written
}

// append writes a line and returns when it is on disk. b.mu is held; it is given back while
// waiting.
func (b *book) append(l Line) error {
	if b.err != nil {
		return b.err
	}
	l.At = time.Now().UTC()
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if _, err := b.file.Write(append(data, '\n')); err != nil {
		b.err = fmt.Errorf("paysim: %w", err)
		return b.err
	}
	b.written++
	b.apply(l)
	return b.sync(b.written)
}

// sync returns when line n is on disk. One caller syncs for all that wait.
func (b *book) sync(n uint64) error {
	for b.synced < n && b.err == nil {
		if b.syncing {
			b.cond.Wait()
			continue
		}
		b.syncing = true
		upTo := b.written
		b.mu.Unlock()
		err := b.file.Sync()
		b.mu.Lock()
		b.syncing = false
		if err != nil {
			b.err = fmt.Errorf("paysim: %w", err)
		} else {
			b.synced = upTo
		}
		b.cond.Broadcast()
	}
	return b.err
}

func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.sync(b.written)
	if b.err == nil {
		b.err = errors.New("paysim: closed")
	}
	return errors.Join(err, b.file.Close())
}
