package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"shoal/lab/traffic"
)

// sick is the file whose existence makes /health fail.
const sick = "/tmp/sick"

// ports is a flag: a list like 80,8080.
type ports []uint16

func (p *ports) String() string { return strings.Trim(fmt.Sprint(*p), "[]") }

func (p *ports) Set(s string) error {
	*p = nil
	for one := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(one, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no port", one)
		}
		*p = append(*p, uint16(n))
	}
	return nil
}

func serve(ctx context.Context, flags *flag.FlagSet) error {
	web, tcp, udp, sctp := ports{8000}, ports(nil), ports(nil), ports(nil)
	flags.Var(&web, "http", "`ports` for HTTP")
	flags.Var(&tcp, "tcp", "`ports` for TCP")
	flags.Var(&udp, "udp", "`ports` for UDP")
	flags.Var(&sctp, "sctp", "`ports` for SCTP")
	next := flags.String("next", "", "`URL` that /chain asks too")
	late := flags.Duration("late", 0, "time before it listens at all")
	linger := flags.Duration("linger", 0, "time for which it takes new connections after SIGTERM")
	_ = flags.Parse(os.Args[2:]) // ends the program where it fails
	select {
	case <-time.After(*late):
	case <-ctx.Done():
		return nil
	}

	failed := make(chan error, 1)
	run := func(f func() error) {
		go func() {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	server := &http.Server{Handler: handler(*next)}
	for _, p := range web {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", p))
		if err != nil {
			return err
		}
		run(func() error { return server.Serve(l) })
	}
	for _, p := range tcp {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", p))
		if err != nil {
			return err
		}
		run(func() error { return serveTCP(l) })
	}
	for _, p := range udp {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(p)})
		if err != nil {
			return err
		}
		run(func() error { return serveUDP(c) })
	}
	for _, p := range sctp {
		run(func() error { return traffic.ListenSCTP(p, echo) })
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		time.Sleep(*linger)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return server.Shutdown(ctx)
}

func handler(next string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", whoami)
	mux.HandleFunc("/chain", func(w http.ResponseWriter, r *http.Request) { chain(w, r, next) })
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(sick); err == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		whoami(w, r)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("d"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(d):
			whoami(w, r)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		chunk := []byte(strings.Repeat("0123456789abcdef", 2048))
		for ; n > 0; n -= len(chunk) {
			if _, err := w.Write(chunk[:min(n, len(chunk))]); err != nil {
				return
			}
		}
	})
	return mux
}

func whoami(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	fmt.Fprintf(w, "hostname=%s\nclient=%s\nforwarded=%s\nlocal=%s\naddresses=%s\nhost=%s\npath=%s\n",
		hostname(), r.RemoteAddr, r.Header.Get("X-Forwarded-For"), local, addresses(), r.Host, r.URL.Path)
}

// chain tells who answers, then what the next one says, if there is one.
func chain(w http.ResponseWriter, r *http.Request, next string) {
	if next == "" {
		whoami(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, next, nil)
	if err == nil {
		var answer *http.Response
		if answer, err = http.DefaultClient.Do(ask); err == nil {
			defer answer.Body.Close()
			whoami(w, r)
			_, _ = io.Copy(w, answer.Body) // a client that has gone is no trouble
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadGateway)
}

func serveTCP(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go echo(c)
	}
}

// echo answers each line of a connection with a line.
func echo(c net.Conn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := fmt.Fprint(c, line(c.RemoteAddr(), c.LocalAddr(), lines.Text())); err != nil {
			return
		}
	}
}

func serveUDP(c *net.UDPConn) error {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		// A client that has gone is no reason to stop.
		_, _ = c.WriteToUDPAddrPort([]byte(line(from, c.LocalAddr(), strings.TrimSpace(string(b[:n])))), from)
	}
}

func line(client, local fmt.Stringer, payload string) string {
	return fmt.Sprintf("hostname=%s client=%s local=%s addresses=%s echo=%s\n", hostname(), client, local, addresses(), payload)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// addresses are those of all interfaces but loopback, joined by commas. They are read each time: a container may join
// another network.
func addresses() string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var found []string
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			found = append(found, p.Addr().String())
		}
	}
	return strings.Join(found, ",")
}
