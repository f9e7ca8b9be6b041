package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

type asJSON struct {
	JSON bool `help:"Print JSON." name:"json"`
}

func (asJSON) print(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// say prints either.
func (j asJSON) say(w io.Writer, v any, text string, args ...any) error {
	if j.JSON {
		return j.print(w, v)
	}
	_, err := fmt.Fprintf(w, text+"\n", args...)
	return err
}

func printStatus(out io.Writer, s replica.Status) error {
	leader := s.Leader
	if leader == "" {
		leader = "nobody"
	}
	fmt.Fprintf(out, "cluster %s, term %d, epoch %d; %s leads; committed up to %d\n", s.Cluster, s.Term, s.Epoch, leader, s.Offset)
	if s.Disk.Refuses {
		fmt.Fprintf(out, "CLIENTS' WRITES ARE REFUSED: %d nodes have too little room on their disks\n", s.Disk.Without)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATE\tCLIENTS\tNODES\tVOTE\tLOG\tDISK\tCLOCK")
	for _, n := range s.Nodes {
		state, vote, log, disk, clock := "follows", "not yet", "?", "ok", "?"
		switch {
		case !n.Answers && !n.Active: // neither the asked node nor the leader hears of it
			state = "no answer"
		case n.Leads:
			state = "leads"
		case s.Leader == "":
			state = "waits"
		}
		if n.Voter {
			vote = "yes"
		}
		if n.Match > 0 {
			log = fmt.Sprint(n.Match)
		}
		if n.Answers && !n.Self {
			clock = fmt.Sprintf("%+.3fs", n.ClockDiff)
		}
		switch {
		case n.Self:
			clock = "(asked)"
		case !n.Answers:
			disk = "?"
		}
		if n.DiskLow {
			disk = "LOW"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, state, n.Clients, n.Raft, vote, log, disk, clock)
	}
	return w.Flush()
}

type nodeTransferCmd struct {
	nodeAt
	asJSON
	To string `arg:"" optional:"" help:"Name of the node that shall lead; otherwise the one that is best up to date."`
}

func (c *nodeTransferCmd) Run(e *env) error {
	return c.ask(e.ctx, e.logger, func(ctx context.Context, a *replica.Admin) error {
		if err := a.Transfer(ctx, c.Node, c.To); err != nil {
			return err
		}
		for { // the asked node may not have heard of it yet
			s, err := a.Status(ctx, c.Node)
			if err != nil {
				return fmt.Errorf("leadership was handed over; who leads now could not be asked: %w", err)
			}
			if s.Leader != "" && (c.To == "" || s.Leader == c.To) {
				return c.say(e.out, map[string]any{"leader": s.Leader, "term": s.Term}, "%s leads", s.Leader)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not lead yet: %w", c.To, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

type nodeLeaveCmd struct {
	nodeAt
	asJSON
	Name string `arg:"" help:"Name of the node that leaves. Its process ends when it hears of it; its directory is of no use after that."`
}

func (c *nodeLeaveCmd) Run(e *env) error {
	return c.ask(e.ctx, e.logger, func(ctx context.Context, a *replica.Admin) error {
		if err := a.Leave(ctx, c.Node, c.Name); err != nil {
			return err
		}
		return c.say(e.out, map[string]any{"left": c.Name}, "%s has left", c.Name)
	})
}

type nodeRejoinCmd struct {
	nodeAt
	asJSON
	Dir string `help:"Directory of the node, which must not run." required:"" type:"existingdir" env:"HOLDFAST_NODE_DIR"`
}

func (c *nodeRejoinCmd) Run(e *env) error {
	return c.ask(e.ctx, e.logger, func(ctx context.Context, a *replica.Admin) error {
		aside, err := a.Rejoin(ctx, c.Node, c.Dir)
		if err != nil {
			return err
		}
		return c.say(e.out, map[string]any{"aside": aside}, "what it had is in %s; start the node with --join", aside)
	})
}
