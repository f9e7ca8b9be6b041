package server

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
)

// LockHolder is somebody who holds a lock. Times are the store's.
type LockHolder struct {
	Token   int64     `json:"token" doc:"The fencing token, by which the lease can be broken."`
	Who     string    `json:"who" doc:"As the holder says."`
	Caller  string    `json:"caller,omitempty" doc:"Name of the API key that it was acquired with; none for those who use the store directly."`
	Mode    string    `json:"mode" enum:"exclusive,shared,semaphore"`
	Permits int64     `json:"permits,omitempty" doc:"Of a semaphore."`
	Of      int64     `json:"of,omitempty"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires" doc:"Unless it is renewed."`
	Ends    time.Time `json:"ends" doc:"However often it is renewed."`
	HeldFor int64     `json:"held_ms"`
}

// LockWaiter is somebody who stands in line.
type LockWaiter struct {
	Who    string `json:"who"`
	Caller string `json:"caller,omitempty"`
	Mode   string `json:"mode" enum:"exclusive,shared,semaphore"`
	Alive  bool   `json:"alive" doc:"Otherwise it has not been heard of for 3 s, and is passed over."`
}

// LockState is who holds a lock and who waits for it.
type LockState struct {
	Lock    string       `json:"lock"`
	Now     time.Time    `json:"now" doc:"The store's clock."`
	Holders []LockHolder `json:"holders"`
	Waiting int64        `json:"waiting" doc:"How many wait."`
	Line    []LockWaiter `json:"line" doc:"The first hundred of them, in order."`
}

// LockStateOf makes one of what package lock tells. It leaves out the owners: whoever knows them can end their leases.
func LockStateOf(i lock.Info) LockState {
	state := LockState{Lock: i.Name, Now: i.Now.UTC(), Holders: []LockHolder{}, Waiting: i.Waiters, Line: []LockWaiter{}}
	for _, h := range i.Holders {
		x := LockHolder{Token: h.Token, Who: h.Who, Caller: callerOf(h.Owner), Mode: h.Mode, Since: h.Since.UTC(), Expires: h.Until.UTC(),
			Ends: h.End.UTC(), HeldFor: i.Now.Sub(h.Since).Milliseconds()}
		if h.Mode == "semaphore" {
			x.Permits, x.Of = h.Permits, h.Of
		}
		state.Holders = append(state.Holders, x)
	}
	for _, w := range i.Line {
		state.Line = append(state.Line, LockWaiter{w.Who, callerOf(w.Owner), w.Mode, w.Alive})
	}
	return state
}

// callerOf is the name with which an owner over HTTP begins.
func callerOf(owner string) string {
	name, _, ok := strings.Cut(owner, "/")
	if !ok {
		return ""
	}
	return name
}

type lockOutput struct{ Body LockState }

func (s *Server) getLock(ctx context.Context, in *LockPath) (*lockOutput, error) {
	if s.Locks == nil {
		return nil, s.noLocks(ctx)
	}
	info, err := s.Locks.Info(ctx, in.Name)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &lockOutput{LockStateOf(info)}, nil
}

type locksInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

// LockList is what listing answers.
type LockList struct {
	Locks []LockState `json:"locks" doc:"By name."`
	More  bool        `json:"more" doc:"There are more."`
}

type locksOutput struct{ Body LockList }

func (s *Server) listLocks(ctx context.Context, in *locksInput) (*locksOutput, error) {
	if s.Locks == nil {
		return nil, s.noLocks(ctx)
	}
	// It costs more than a thousand questions, so those who ask at the same time share an answer.
	list, err, _ := s.listing.Do(strconv.Itoa(in.Limit), func() (any, error) {
		ctx, cancel := context.WithTimeout(s.work, s.Timeout)
		defer cancel()
		return s.allLocks(ctx, in.Limit)
	})
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &locksOutput{list.(LockList)}, nil
}

func (s *Server) allLocks(ctx context.Context, limit int) (LockList, error) {
	all, more, err := s.Locks.All(ctx, limit)
	list := LockList{Locks: []LockState{}, More: more}
	for _, i := range all {
		list.Locks = append(list.Locks, LockStateOf(i))
	}
	return list, err
}

type breakInput struct {
	LockPath
	Body struct {
		Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"For the log."`
		Token  int64  `json:"token,omitempty" minimum:"1" doc:"Of the lease to end; all of them if left out."`
	}
}

// Broken is what breaking answers.
type Broken struct {
	Tokens []int64 `json:"tokens" doc:"Of the leases that were ended. Their holders learn it at their next renewal; until then only the guard at the resource protects it."`
}

type brokenOutput struct{ Body Broken }

func (s *Server) breakLock(ctx context.Context, in *breakInput) (*brokenOutput, error) {
	if s.Locks == nil {
		return nil, s.noLocks(ctx)
	}
	if !s.mayOperate(ctx) {
		return nil, s.fail(ctx, errNotOperator)
	}
	tokens, err := BreakLock(ctx, s.Locks, in.Name, in.Body.Token, in.Body.Reason)
	s.metrics.locks.count("break", time.Time{}, err)
	if len(tokens) > 0 {
		s.Logger.WarnContext(ctx, "lock broken", "lock", in.Name, "tokens", tokens, "reason", in.Body.Reason, "caller", caller(ctx))
	}
	return &brokenOutput{Broken{Tokens: tokens}}, s.fail(ctx, err)
}

// BreakLock ends the lease of a lock that has a token, or all of them when it is 0, and returns the
// tokens of those that it has ended, also with an error.
func BreakLock(ctx context.Context, l *lock.Locker, name string, token int64, reason string) (tokens []int64, err error) {
	tokens = []int64{}
	info, err := l.Info(ctx, name)
	if err != nil {
		return tokens, err
	}
	for _, h := range info.Holders {
		if token != 0 && token != h.Token {
			continue
		}
		was, err := l.Break(ctx, name, h.Owner, reason)
		if err != nil {
			return tokens, err
		}
		if was {
			tokens = append(tokens, h.Token)
		}
	}
	return tokens, nil
}
