package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/ratelimit/replay"
)

type limitCmd struct {
	Check limitCheckCmd `cmd:"" help:"Say what rules would have decided over a recorded access log."`
}

type limitCheckCmd struct {
	Log    string   `arg:"" help:"The log, sorted by time; - is standard input. See --format."`
	Rules  []string `help:"Rule files, those of 'holdfast serve --limits'." type:"existingfile" required:""`
	Format string   `help:"json: a call a line, {\"time\":\"2026-11-28T09:00:00Z\",\"domain\":…,\"descriptors\":[[{\"key\":…,\"value\":…}]]}, with \"hits\" (1) and \"took_ms\" if there are any. combined: the common or combined log format, with --domain." enum:"json,combined" default:"json"`
	Domain string   `help:"The rule file's domain for a log in the combined format. A line asks for [remote_address], [path], [remote_address path], [method path] and [user]."`
	JSON   bool     `name:"json" help:"Print the report as JSON."`
}

// Run reads the log once, from its beginning to its end.
func (c *limitCheckCmd) Run(e *env) (err error) {
	o := replay.Options{Parse: replay.JSON}
	switch {
	case c.Format == "combined" && c.Domain == "":
		return errors.New("--format combined needs --domain: which rules it is for is not in the log")
	case c.Format == "combined":
		o.Parse = replay.Combined(c.Domain)
	case c.Domain != "":
		return errors.New("--domain is for --format combined: in JSON each line has its own")
	}
	rules, err := ratelimit.LoadRules(c.Rules...)
	if err != nil {
		return err
	}
	if c.Domain != "" && !slices.ContainsFunc(rules.All(), func(r ratelimit.Rule) bool { return r.Domain == c.Domain }) {
		return fmt.Errorf("--domain: no rule is for %q", c.Domain)
	}
	var log io.Reader = os.Stdin
	var whole int64 // bytes, 0: unknown
	if c.Log != "-" {
		f, openErr := os.Open(c.Log)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			whole = info.Size()
		}
		log = f
	}
	read := &counting{Reader: log}
	o.Progress = func(lines int64) {
		if whole > 0 {
			fmt.Fprintf(e.errs, "%d lines, %d%% of the log\n", lines, 100*read.n.Load()/whole)
		} else {
			fmt.Fprintf(e.errs, "%d lines\n", lines)
		}
	}
	report, err := replay.Run(e.ctx, rules, read, o)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Log, err)
	}
	if c.JSON {
		out := json.NewEncoder(e.out)
		out.SetIndent("", "  ")
		return out.Encode(report)
	}
	return printVerdicts(e.out, report)
}

// counting says how much was read.
type counting struct {
	io.Reader
	n atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func printVerdicts(out io.Writer, r *replay.Report) error {
	if r.From == nil {
		_, err := fmt.Fprintln(out, "the log is empty")
		return err
	}
	fmt.Fprintf(out, "%d lines, %s to %s: %d calls admitted, %d refused; no rule is for %d\n",
		r.Lines, r.From.Format(time.RFC3339), r.To.Format(time.RFC3339), r.Admitted, r.Refused, r.Unmatched)
	if i := r.Invalid; i != nil {
		fmt.Fprintf(out, "%d calls would not be taken at all, the first in line %d: %s\n", i.Calls, i.Line, i.Why)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DOMAIN\tRULE\tALGORITHM\tASKED\tADMITTED\tREFUSED\tWOULD REFUSE\tBY OTHERS\tWORST BURST\tFIRST REFUSAL")
	for _, x := range r.Rules {
		worst, first, refuse := "-", "-", "-"
		if b := x.Worst; b != nil {
			worst = fmt.Sprintf("%d in %s by %q", b.Units, time.Duration(b.Window)*time.Millisecond, b.Key)
		}
		if f := x.First; f != nil {
			first = fmt.Sprintf("line %d, %s, %q", f.Line, f.Time.Format(time.RFC3339), f.Key)
		}
		if x.Shadow {
			refuse = fmt.Sprint(x.WouldRefuse)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%s\t%s\n", x.Domain, x.Name, x.Algorithm, x.Asked, x.Admitted, x.Refused, refuse, x.ByOthers, worst, first)
	}
	return w.Flush()
}
