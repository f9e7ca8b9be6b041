package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// nodes are a cluster inside this process, to try one on one machine.
type nodes struct {
	all []*replica.Node
	url string // as a store
}

// startNodes starts n nodes whose directories are below dir, anew or again.
func startNodes(ctx context.Context, dir string, n int, logger *slog.Logger) (c *nodes, err error) {
	c = &nodes{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails; for this run: the nodes are all in this process
	var clients, first []string
	c.all = make([]*replica.Node, n)
	for i := range n {
		cfg, err := nodeConfig(dir, i, secret, logger)
		if err != nil {
			return c, err
		}
		cfg.Join = first
		clients = append(clients, cfg.Clients.Addr().String())
		if i == 0 {
			first = []string{cfg.Raft.Addr().String()}
		}
		if c.all[i], err = replica.Open(ctx, cfg); err != nil {
			c.all[i] = nil
			return c, err
		}
	}
	c.url = "holdfast://" + strings.Join(clients, ",")
	return c, c.await(ctx)
}

// The ports of the nodes of `holdfast up`: clients', and one higher for the nodes.
const firstPort = 7701

func nodeConfig(dir string, i int, secret []byte, logger *slog.Logger) (replica.Config, error) {
	name := fmt.Sprint("node", i+1)
	clients, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+10*i))
	if err != nil {
		return replica.Config{}, fmt.Errorf("%s: %w", name, err)
	}
	raft, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+10*i+1))
	if err != nil {
		return replica.Config{}, errors.Join(fmt.Errorf("%s: %w", name, err), clients.Close())
	}
	return replica.Config{Dir: filepath.Join(dir, name), Name: name, Secret: secret, Clients: clients, Raft: raft,
		Reserve: 16 << 20, // of three on one disk
		Logger:  logger.With("node", name)}, nil
}

// await waits until one node leads.
func (c *nodes) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		for _, n := range c.all {
			if n.Status(ctx).Leads {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the nodes have no leader: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *nodes) close() (err error) {
	for _, n := range c.all {
		if n != nil {
			err = errors.Join(err, n.Close())
		}
	}
	return err
}
