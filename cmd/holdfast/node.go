package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

type nodeCmd struct {
	Run      nodeRunCmd      `cmd:"" default:"withargs" help:"Run a node: the first of a new cluster, one that joins, or one that was here before."`
	Join     nodeJoinCmd     `cmd:"" help:"Run a node that joins a cluster: as 'node run' with --join."`
	Status   nodeStatusCmd   `cmd:"" help:"Show the cluster as one node sees it."`
	Transfer nodeTransferCmd `cmd:"" help:"Hand leadership to another node."`
	Verify   nodeVerifyCmd   `cmd:"" help:"Compare the engines' contents at one offset. It holds up each engine for a moment."`
	Leave    nodeLeaveCmd    `cmd:"" help:"Take a node out of the cluster, also one that is lost. Refused where the rest would be no majority."`
	Rejoin   nodeRejoinCmd   `cmd:"" help:"Prepare the directory of a node whose data is damaged for joining anew."`
}

// Help is shown by --help, which does not list the flags of a default command.
func (nodeCmd) Help() string {
	return "Its flags: holdfast node run --help. 'holdfast node' alone is 'holdfast node run'."
}

type nodeRunCmd struct {
	Join []string `help:"Addresses of nodes whose cluster this one joins, when its directory is empty." env:"HOLDFAST_NODE_JOIN"`
	nodeFlags
}

// nodeFlags are those of every way to run a node.
type nodeFlags struct {
	Dir             string `help:"Directory of the node: its log, its snapshots, its engine's socket." required:"" type:"path" env:"HOLDFAST_NODE_DIR"`
	Engine          string `help:"The engine's program; otherwise valkey-server or redis-server is looked for on PATH." env:"HOLDFAST_NODE_ENGINE"`
	Name            string `help:"What people call this node; otherwise a random number, in hexadecimal." env:"HOLDFAST_NODE_NAME"`
	Listen          string `help:"Address for clients, as of a Valkey or Redis." default:"127.0.0.1:6379" env:"HOLDFAST_NODE_LISTEN"`
	Raft            string `help:"Address for the other nodes." default:"127.0.0.1:7379" env:"HOLDFAST_NODE_RAFT"`
	Advertise       string `help:"Clients' address, as others reach it; otherwise --listen." env:"HOLDFAST_NODE_ADVERTISE"`
	RaftAdvertise   string `help:"Nodes' address, as others reach it; otherwise --raft, which must not be all of the machine's then." env:"HOLDFAST_NODE_RAFT_ADVERTISE"`
	SecretFile      string `help:"File with the nodes' secret, the same on all of them (32 bytes or more); otherwise DIR/secret, which the first node makes." type:"path" env:"HOLDFAST_NODE_SECRET_FILE"`
	PasswordFile    string `help:"File with the clients' password, the same on all nodes: another one may not join. Otherwise there is none." type:"path" env:"HOLDFAST_NODE_PASSWORD_FILE"`
	ReadyFile       string `help:"File to write the clients' address to, once the node serves them." type:"path"`
	Metrics         string `help:"Address for metrics and health (/metrics, /livez, /readyz); otherwise there are none." env:"HOLDFAST_NODE_METRICS"`
	AllowNoPassword bool   `help:"Listen on an address that others reach, without a password."`
	sentinelFlags
}

// processors is how many a node uses: half of them, for the engine beside it needs some. What a node does
// is many small steps that wait for one another; on one processor they wake nobody up.
func processors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.NumCPU()/2))
	}
}

// once runs the node until it is told to end, or fails.
func (c *nodeFlags) once(e *env, join []string, ops *replica.Ops) (err error) {
	secret, err := c.secret(e.logger, len(join) > 0)
	if err != nil {
		return err
	}
	password := ""
	if c.PasswordFile != "" {
		if password, err = readSecret(e.logger, c.PasswordFile); err != nil {
			return err
		}
	}
	clients, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if !clients.Addr().(*net.TCPAddr).IP.IsLoopback() && password == "" && !c.AllowNoPassword {
		return errors.Join(errors.New("clients could connect from elsewhere without a password: give --password-file, listen on loopback, or say --allow-no-password"), clients.Close())
	}
	raft, err := net.Listen("tcp", c.Raft)
	if err != nil {
		return errors.Join(fmt.Errorf("--raft: %w", err), clients.Close())
	}
	cfg := replica.Config{
		Dir: c.Dir, Engine: c.Engine, Name: c.Name, Password: password, Secret: []byte(secret),
		Clients: clients, Raft: raft, AdvertiseClients: c.Advertise, AdvertiseRaft: c.RaftAdvertise, Join: join, Logger: e.logger,
	}
	if err := c.sentinelFlags.listen(&cfg); err != nil {
		return errors.Join(err, clients.Close(), raft.Close())
	}
	n, err := replica.Open(e.ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	ops.Set(n, "")
	defer ops.Set(nil, "shutting down") // before it is closed
	if err := c.ready(e.ctx, n, clients); err != nil {
		return err
	}
	select {
	case <-n.Failed():
		return n.Err()
	case <-e.ctx.Done():
		e.logger.Info("node ends: it was told to")
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := n.HandOver(ctx); err != nil {
		e.logger.Warn("leadership could not be handed on", "error", err)
	}
	return nil
}

// ready tells whoever waits that clients are served, here or by the leader.
func (c *nodeFlags) ready(ctx context.Context, n *replica.Node, l net.Listener) error {
	if c.ReadyFile == "" {
		return nil
	}
	for ctx.Err() == nil {
		if s := n.Status(ctx); s.Leads || s.Leader != "" && s.Leader != s.Name {
			return announce(c.ReadyFile, l)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		case <-n.Failed():
			return n.Err()
		}
	}
	return nil
}

// secret reads the nodes' secret; the first node of a cluster makes one.
func (c *nodeFlags) secret(log *slog.Logger, joins bool) (string, error) {
	if c.SecretFile != "" {
		return readNodesSecret(log, c.SecretFile)
	}
	file := filepath.Join(c.Dir, "secret")
	s, err := readNodesSecret(log, file)
	if !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	if joins {
		return "", errors.New("a node that joins needs the cluster's secret: copy DIR/secret of a node that is in it, and name it with --secret-file")
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "node.json")); err == nil {
		return "", fmt.Errorf("%s belongs to a cluster already: name its secret with --secret-file", c.Dir)
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	s = hex.EncodeToString(b[:])
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return "", err
	}
	return s, os.WriteFile(file, []byte(s+"\n"), 0o600)
}

// readSecret refuses an empty file: it would stand for no password.
func readSecret(log *slog.Logger, file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if s == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	if is, err := os.Stat(file); err == nil && is.Mode()&0o077 != 0 {
		log.Warn("others on this machine may use a file that is a secret; chmod 600 keeps them out", "file", file, "mode", is.Mode().String())
	}
	return s, nil
}

func readNodesSecret(log *slog.Logger, file string) (string, error) {
	s, err := readSecret(log, file)
	if err == nil && len(s) < replica.MinSecret {
		err = fmt.Errorf("%s: the nodes' secret has %d bytes; it needs %d", file, len(s), replica.MinSecret)
	}
	return s, err
}

// nodeAt is how commands reach a node.
type nodeAt struct {
	Node       string `help:"Address of any node, as given by --raft." default:"127.0.0.1:7379" env:"HOLDFAST_NODE_RAFT"`
	SecretFile string `help:"File with the nodes' secret." required:"" type:"path" env:"HOLDFAST_NODE_SECRET_FILE"`
}

func (at *nodeAt) ask(ctx context.Context, log *slog.Logger, what func(context.Context, *replica.Admin) error) (err error) {
	secret, err := readNodesSecret(log, at.SecretFile)
	if err != nil {
		return err
	}
	a, err := replica.NewAdmin([]byte(secret))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	return what(ctx, a)
}

type nodeStatusCmd struct {
	nodeAt
	asJSON
}

func (c *nodeStatusCmd) Run(e *env) error {
	return c.ask(e.ctx, e.logger, func(ctx context.Context, a *replica.Admin) error {
		s, err := a.Status(ctx, c.Node)
		if err != nil {
			return err
		}
		if c.JSON {
			err = c.print(e.out, s)
		} else {
			err = printStatus(e.out, s)
		}
		if err == nil && s.Leader == "" {
			err = errors.New("nobody leads")
		}
		return err
	})
}

type nodeVerifyCmd struct {
	nodeAt
	asJSON
}

func (c *nodeVerifyCmd) Run(e *env) error {
	return c.ask(e.ctx, e.logger, func(ctx context.Context, a *replica.Admin) error {
		v, err := a.Verify(ctx, c.Node)
		if err != nil {
			return err
		}
		equal, first := true, ""
		for _, d := range v.Digests {
			if first == "" {
				first = d
			}
			equal = equal && d == first
		}
		if c.JSON {
			err = c.print(e.out, map[string]any{"digests": v.Digests, "missing": v.Missing, "equal": equal && len(v.Missing) == 0})
		} else {
			for _, name := range slices.Sorted(maps.Keys(v.Digests)) {
				fmt.Fprintf(e.out, "%s  %s\n", v.Digests[name], name)
			}
			for _, name := range slices.Sorted(maps.Keys(v.Missing)) {
				fmt.Fprintf(e.out, "%s %s\n", name, v.Missing[name])
			}
		}
		if err == nil && !equal {
			err = errors.New("the engines differ")
		}
		if err == nil && len(v.Missing) > 0 {
			err = fmt.Errorf("not all engines were compared: %s", strings.Join(slices.Sorted(maps.Keys(v.Missing)), ", "))
		}
		return err
	})
}
