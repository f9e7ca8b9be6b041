package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// again is the pace of questions that have no answer that counts: an engine that is busy with
// a script says so instead, and what it has sent meanwhile stays held.
const again = 2 * time.Millisecond

var errAnswer = errors.New("replica: not a master's answer to ROLE")

// probe asks for the engine's offset as long as there is something held that no answer covers.
func (g *Gate) probe() {
	defer g.wg.Done()
	p := &prober{g: g}
	defer p.hangUp()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.wake:
		}
		for g.round(p) {
		}
	}
}

// round covers all that is there now with one question. It returns false when there is nothing.
func (g *Gate) round(p *prober) bool {
	g.mu.Lock()
	g.dirtyMu.Lock()
	dirty := g.dirty
	g.dirty = p.spare[:0]
	g.dirtyMu.Unlock()
	p.spare = dirty
	if len(dirty) == 0 {
		g.mu.Unlock()
		return false
	}
	session := g.session
	id := g.rounds.ask()
	open := g.open
	g.mu.Unlock()
	spans := make([]span, 0, len(dirty))
	for _, c := range dirty {
		spans = append(spans, c.span())
	}
	clear(dirty)
	if !open {
		return true
	}
	proposed := g.cfg.Proposed()
	if p.still { // a load of reads needs the proof: it is asked for at the same time
		g.mu.Lock()
		g.ask(id)
		g.mu.Unlock()
	}
	offset, ok := p.offset(session)
	if !ok {
		return true
	}
	now := g.cfg.Proposed() // not under mu: those who commit come with locks of their own
	g.mu.Lock()
	defer g.mu.Unlock()
	if session != g.session || !g.open {
		return true
	}
	proven := g.rounds.answer(id, spans, offset, proposed, now)
	p.still, p.last = offset == p.last, offset
	if !proven {
		g.ask(id)
	}
	g.release()
	return true
}

// ask asks, once, whether the node leads, for all rounds up to id; it needs mu.
func (g *Gate) ask(id uint64) {
	if g.rounds.asked < id {
		g.rounds.asked = id
		go g.verify(g.session, id)
	}
}

func (g *Gate) verify(session, id uint64) {
	g.cfg.Verify(func(ok bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if session != g.session || !g.open {
			return
		}
		if !ok {
			g.shut()
			g.wg.Go(func() { // whoever says no waits for nobody
				g.cfg.Logger.Info("gate: leadership was not confirmed; clients are cut off")
			})
			return
		}
		g.rounds.verify(id)
		g.release()
	})
}

// prober is the connection on which the offset is asked for.
type prober struct {
	g     *Gate
	conn  net.Conn
	r     *bufio.Reader
	spare []*conn
	last  int64 // offset
	still bool  // the last round changed nothing
}

var question = []byte("*1\r\n$4\r\nROLE\r\n")

// offset asks until there is an answer that counts. It gives up when the session is over.
func (p *prober) offset(session uint64) (int64, bool) {
	for {
		offset, err := p.ask()
		if err == nil {
			return offset, true
		}
		if !errors.Is(err, errAnswer) {
			p.hangUp()
		}
		p.g.mu.Lock()
		over := session != p.g.session || !p.g.open
		p.g.mu.Unlock()
		if over {
			return 0, false
		}
		select {
		case <-p.g.ctx.Done():
			return 0, false
		case <-time.After(again):
		}
	}
}

// askTime bounds a question. An engine that is stopped does not answer; neither does it
// answer anybody else.
const askTime = time.Second

func (p *prober) ask() (int64, error) {
	if p.conn == nil {
		ctx, cancel := context.WithTimeout(p.g.ctx, dialTime)
		defer cancel()
		c, err := p.g.cfg.Probe(ctx)
		if err != nil {
			return 0, err
		}
		p.conn, p.r = c, bufio.NewReader(c)
	}
	if err := p.conn.SetDeadline(time.Now().Add(askTime)); err != nil {
		return 0, err
	}
	if _, err := p.conn.Write(question); err != nil {
		return 0, err
	}
	return readRole(p.r)
}

func (p *prober) hangUp() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// readRole takes the offset from a master's answer to ROLE. Any other whole answer is
// errAnswer; after any other error the connection is of no use.
func readRole(r *bufio.Reader) (int64, error) {
	kind, n, text, err := readHead(r)
	if err != nil {
		return 0, err
	}
	if kind != '*' {
		return 0, fmt.Errorf("%w: %.64q", errAnswer, text)
	}
	var words []string
	for range n {
		word, err := readWord(r, 0)
		if err != nil {
			return 0, err
		}
		words = append(words, word)
	}
	if len(words) != 3 || words[0] != "$master" || words[1][0] != ':' {
		return 0, fmt.Errorf("%w: %.3q", errAnswer, words)
	}
	offset, err := strconv.ParseInt(words[1][1:], 10, 64)
	if err != nil || offset < 0 {
		return 0, fmt.Errorf("%w: %.64q", errAnswer, words[1])
	}
	return offset, nil
}

// Bounds of an answer.
const (
	maxWords = 1000
	maxWord  = 4 << 10
	maxDepth = 3
)

var errGarbage = errors.New("replica: garbage instead of an answer")

// readHead reads the first line of a value: its kind, its length or number, its text.
func readHead(r *bufio.Reader) (kind byte, n int, text string, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, 0, "", err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return 0, 0, "", fmt.Errorf("%w: %.64q", errGarbage, line)
	}
	kind, text = line[0], string(line[1:len(line)-2])
	if kind == '*' || kind == '$' {
		n, err = strconv.Atoi(text)
		if err != nil || n > maxWord || kind == '*' && n > maxWords {
			return 0, 0, "", fmt.Errorf("%w: %.64q", errGarbage, line)
		}
	}
	return kind, n, text, nil
}

// readWord reads a value: a string as $text, a number as :text, an array as *.
func readWord(r *bufio.Reader, depth int) (string, error) {
	kind, n, text, err := readHead(r)
	if err != nil || depth > maxDepth {
		return "", errors.Join(err, errGarbage)
	}
	switch kind {
	case '$':
		if n < 0 {
			return "$", nil
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		return "$" + string(b[:n]), nil
	case '*':
		for range n {
			if _, err := readWord(r, depth+1); err != nil {
				return "", err
			}
		}
		return "*", nil
	case ':', '+', '-':
		return string(kind) + text, nil
	}
	return "", fmt.Errorf("%w: %.64q", errGarbage, text)
}
