// pause holds a pod's namespaces and reaps its orphans. It never does anything else, and so costs nothing:
// a Go program in its place would keep a runtime and its threads in every pod.
//
//   cc -Os -static -s -Wall -Wextra -o pause pause.c
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal_number) {
	(void)signal_number;
	_exit(0);
}

static void reap(int signal_number) {
	(void)signal_number;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

int main(int argc, char **argv) {
	if (argc > 1 && strcmp(argv[1], "-v") == 0) {
		static const char version[] = "pause.c 3.10.2\n";
		return write(1, version, sizeof version - 1) < 0;
	}
	struct sigaction action = {.sa_handler = end};
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	action.sa_handler = reap;
	action.sa_flags = SA_NOCLDSTOP;
	sigaction(SIGCHLD, &action, NULL);
	for (;;) {
		pause();
	}
}
