package sentinel

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// The other nodes' sentinels are asked whether they are there, so that clients that would read from a
// node, or count sentinels, know better than to try one that is down. Who leads does not rest on it.
const (
	askEvery  = time.Second
	askWithin = time.Second
	downAfter = 3 * time.Second
)

// watch asks the others until the server is closed.
func (s *Server) watch() {
	defer s.wg.Done()
	t := time.NewTicker(askEvery)
	defer t.Stop()
	for {
		s.mu.Lock()
		others := s.others()
		s.mu.Unlock()
		s.askAll(others)
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (s *Server) askAll(others []Member) {
	var all sync.WaitGroup
	for _, m := range others {
		s.mu.Lock()
		if _, known := s.answers[m.ID]; !known {
			s.answers[m.ID] = time.Now() // it has its time from now on
		}
		s.mu.Unlock()
		all.Go(func() {
			if s.ask(m.Sentinel) != nil {
				return
			}
			s.mu.Lock()
			s.answers[m.ID] = time.Now()
			s.mu.Unlock()
		})
	}
	all.Wait()
}

func (s *Server) ask(addr string) error {
	ctx, cancel := context.WithTimeout(s.ctx, askWithin)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write([]byte("*1\r\n$4\r\nPING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(c, 64).ReadSlice('\n')
	if err == nil && string(line) != "+PONG\r\n" {
		err = errors.New("replica: not a sentinel")
	}
	return err
}

// silent is for how long a node has not answered, 0 while that is no matter; it needs mu. One that is not
// asked, because it runs no sentinel, is taken to be there.
func (s *Server) silent(id uint64) time.Duration {
	last, asked := s.answers[id]
	if gone := time.Since(last); asked && gone > downAfter {
		return gone
	}
	return 0
}
