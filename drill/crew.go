package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// player is a process of a round as the drill sees it, and its journal.
type player[E any] struct {
	index  int
	child  *child
	log    string
	file   *os.File // its journal
	read   int64
	events []E
	killed bool // by the drill
}

// catchUp reads what the process has written since the last time.
func (p *player[E]) catchUp() (err error) {
	if p.file == nil {
		if p.file, err = os.Open(p.log); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	for {
		buf := make([]byte, 16<<10) // many lines; the last one may be whole by the next time
		n, err := p.file.ReadAt(buf, p.read)
		whole := buf[:bytes.LastIndexByte(buf[:n], '\n')+1]
		p.read += int64(len(whole))
		for line := range bytes.Lines(whole) {
			var e E
			if err := json.Unmarshal(line, &e); err != nil {
				return fmt.Errorf("drill: %s: %w", p.log, err)
			}
			p.events = append(p.events, e)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("drill: %w", err)
		case len(whole) == 0:
			return fmt.Errorf("drill: %s: a line has more than %d bytes", p.log, n)
		}
	}
}

// crew is the processes of a round.
type crew[E any] struct {
	mu      sync.Mutex // of their journals
	players []*player[E]
}

func (c *crew[E]) catchUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.players {
		if err := p.catchUp(); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long what has to happen may take.
const patience = 20 * time.Second

// until polls for a state of the journals.
func (c *crew[E]) until(ctx context.Context, is func() bool) bool {
	return c.within(ctx, patience, is)
}

func (c *crew[E]) within(ctx context.Context, d time.Duration, is func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if c.catchUp() == nil && is() {
			return true
		}
		if !pauseFor(ctx, 10*time.Millisecond) {
			return false
		}
	}
	return false
}

// halt stops a process that is about something, and sees to it that it still was when it stopped. A journal does not go
// on while its process stands still, so what it says is then so. Find returns nil when there is none.
func (c *crew[E]) halt(ctx context.Context, find func() *player[E], still func(*player[E]) bool) (*player[E], error) {
	for end := time.Now().Add(patience); time.Now().Before(end) && ctx.Err() == nil; {
		p := find()
		if p == nil {
			break
		}
		if err := p.child.pause(); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
		stood := standsStill(p.child.cmd.Process.Pid)
		err := c.catchUp()
		c.mu.Lock()
		fits := still(p)
		c.mu.Unlock()
		if stood && err == nil && fits {
			return p, nil
		}
		if err := errors.Join(err, p.child.resume()); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
	}
	return nil, nil
}

func standsStill(pid int) bool {
	for range 200 {
		if state, _ := processState(pid); state == "T" {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// kill ends a process that stands still, and says whether it was alive.
func (c *crew[E]) kill(p *player[E]) bool {
	c.mu.Lock()
	p.killed = true
	c.mu.Unlock()
	return p.child.kill()
}

// end tells the processes to end, and says which did not do so cleanly.
func (c *crew[E]) end(kind string) (unclean []string) {
	errs := make([]error, len(c.players))
	var all sync.WaitGroup
	for i, p := range c.players {
		if !p.killed {
			all.Go(func() { errs[i] = p.child.stop(stopWithin) })
		}
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			unclean = append(unclean, fmt.Sprintf("%s %d did not end cleanly: %v\n%s", kind, i, err, tail(c.players[i].child.log)))
		}
	}
	return unclean
}

// abandon ends what is left without waiting.
func (c *crew[E]) abandon() {
	for _, p := range c.players {
		p.child.kill()
		if p.file != nil {
			_ = p.file.Close() // it was only read
		}
	}
}
