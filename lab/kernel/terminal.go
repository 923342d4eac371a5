package kernel

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"
)

// terminal joins the kernel's console 1 to our terminal, by way of a pseudo-terminal, whose size follows ours.
func (e *ends) terminal(cmd *exec.Cmd, size *unix.Winsize) error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("make a pseudo-terminal: %w", err)
	}
	e.ours = append(e.ours, master)
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock the pseudo-terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number of the pseudo-terminal: %w", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open the pseudo-terminal: %w", err)
	}
	if _, err := makeRaw(int(slave.Fd())); err != nil {
		return err
	}
	_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size)
	e.console(cmd, 1, "fd:%d", slave)

	before, err := makeRaw(0)
	if err != nil {
		return fmt.Errorf("the terminal on standard input: %w", err)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	go func() {
		for range resized {
			if s, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
				_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, s)
			}
		}
	}()
	e.restore = func() {
		signal.Stop(resized)
		close(resized)
		_ = unix.IoctlSetTermios(0, unix.TCSETS, before)
	}
	go func() { _, _ = io.Copy(master, os.Stdin) }() // ends with this process
	e.run = append(e.run, func() { _, _ = io.Copy(os.Stdout, master) })
	return nil
}

// makeRaw makes the terminal pass every byte as it is (termios(3), cfmakeraw) and returns how it was.
func makeRaw(fd int) (before *unix.Termios, err error) {
	before, err = unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read terminal settings: %w", err)
	}
	raw := *before
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set the terminal to raw: %w", err)
	}
	return before, nil
}
