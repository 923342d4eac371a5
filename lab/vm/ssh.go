package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"shoal/lab/wait"
)

// identity is a key of this run, by which it gets into machines.
type identity struct {
	signer     ssh.Signer
	authorized []byte // a line of an authorized_keys file
}

func newIdentity() (*identity, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	return &identity{signer, ssh.MarshalAuthorizedKey(signer.PublicKey())}, nil
}

// dial connects to the machine's ssh server.
func (m *Machine) dial(ctx context.Context) (*ssh.Client, error) {
	host, _, _, _, err := ssh.ParseAuthorizedKey(m.image.HostKey)
	if err != nil {
		return nil, fmt.Errorf("the image's host key: %w", err)
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", m.ssh)
	if err != nil {
		return nil, err
	}
	// QEMU accepts the connection, whether or not there is a server behind it.
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c, channels, requests, err := ssh.NewClientConn(conn, m.ssh, &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(m.identity.signer)},
		HostKeyCallback:   ssh.FixedHostKey(host),
		HostKeyAlgorithms: []string{host.Type()},
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return ssh.NewClient(c, channels, requests), nil
}

// client is the connection to the machine, a new one where there is none.
func (m *Machine) client(ctx context.Context) (*ssh.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		return m.conn, nil
	}
	c, err := m.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: ssh: %w", m.name, err)
	}
	m.conn = c
	return c, nil
}

// hangUp ends the connection; the next command makes a new one.
func (m *Machine) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

// ExitError is what a command that failed returned.
type ExitError struct {
	Machine, Script string
	Status          int
	Output          string // of both streams
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: %s: exit status %d\n%s", e.Machine, e.Script, e.Status, e.Output)
}

// Run runs a script of the shell as root and returns its standard output. One that fails is an [ExitError].
func (m *Machine) Run(ctx context.Context, script string) (string, error) {
	return m.Feed(ctx, script, nil)
}

// Feed is Run with a standard input.
func (m *Machine) Feed(ctx context.Context, script string, input io.Reader) (string, error) {
	var out, both bytes.Buffer
	err := m.Attach(ctx, script, input, io.MultiWriter(&out, &both), &both)
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Output = both.String()
	} else if err != nil {
		err = fmt.Errorf("%w\n%s", err, both.String())
	}
	return out.String(), err
}

// Attach runs a script of the shell as root with these streams, each of which may be nil. One that fails is an [ExitError],
// without its output.
func (m *Machine) Attach(ctx context.Context, script string, in io.Reader, out, errors io.Writer) error {
	session, err := m.session(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	session.Stdin, session.Stdout, session.Stderr = in, out, errors
	ended := make(chan error, 1)
	go func() { ended <- session.Run(script) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		m.hangUp() // ends the session, and with it what reads
		<-ended
		err = ctx.Err()
	}
	switch exit := err.(type) {
	case nil:
		return nil
	case *ssh.ExitError:
		return &ExitError{Machine: m.name, Script: script, Status: exit.ExitStatus()}
	default:
		m.hangUp()
		return fmt.Errorf("%s: %s: %w", m.name, script, err)
	}
}

func (m *Machine) session(ctx context.Context) (*ssh.Session, error) {
	c, err := m.client(ctx)
	if err != nil {
		return nil, err
	}
	session, err := c.NewSession()
	if err != nil { // the connection has ended, as when the machine restarted
		m.hangUp()
		if c, err = m.client(ctx); err == nil {
			session, err = c.NewSession()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: ssh: %w", m.name, err)
		}
	}
	return session, nil
}

// awaitSSH waits until the machine's ssh server answers.
func (m *Machine) awaitSSH(ctx context.Context) error {
	m.hangUp()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := wait.Until(ctx, func() error { _, err := m.client(ctx); return err })
	select {
	case <-m.ended:
		return fmt.Errorf("QEMU ended: %v", m.err)
	default:
		return err
	}
}
