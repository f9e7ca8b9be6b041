package drill

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress writes lines for a person who waits.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	began time.Time
}

func (p *progress) say(format string, args ...any) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}
