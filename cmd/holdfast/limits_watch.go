package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// limitsEvery is how often rule files are looked at. Their content decides, so that links that point elsewhere (as Kubernetes
// has them) are seen, and a file that was only touched is not.
const limitsEvery = time.Second

// watchLimits has a Limiter go by its rule files: when they change, and, if that is wanted, at SIGHUP. What has an error is refused whole, and
// told once; the old rules stay. Before is their content when they were read. A change is read once it has stood for one look:
// a file that is written in place may be half there. Stop ends it.
func watchLimits(l *ratelimit.Limiter, files []string, before []byte, atHUP bool, reloaded func(error), logger *slog.Logger) (stop func() error) {
	hup := make(chan os.Signal, 1)
	if atHUP {
		signal.Notify(hup, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer signal.Stop(hup)
		tick := time.NewTicker(limitsEvery)
		defer tick.Stop()
		last := before
		for {
			asked := false
			select {
			case <-ctx.Done():
				return
			case <-hup:
				asked = true
			case <-tick.C:
			}
			now := contentOf(files)
			stands := bytes.Equal(now, last)
			last = now
			if !asked && (!stands || bytes.Equal(now, before)) {
				continue
			}
			before = now
			err := l.ReloadFiles(files...)
			reloaded(err)
			if err != nil {
				logger.Error("limits: the rules stay as they are", "error", err)
				continue
			}
			logger.Info("limits: the rules were read again", "rules", l.Rules().Len())
		}
	}()
	return func() error {
		cancel()
		<-ended
		return nil
	}
}

// contentOf tells files apart by what is in them, and by what keeps them from being read.
func contentOf(files []string) []byte {
	sum := sha256.New()
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			text = []byte(err.Error())
		}
		one := sha256.Sum256(text)
		sum.Write(one[:])
	}
	return sum.Sum(nil)
}
