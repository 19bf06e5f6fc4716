/* A service for images that have nothing: tells what it was started with and finds, and ends as it is told.
 *
 *     --port=N          where it listens; otherwise PORT, otherwise 9000
 *     --exit=N          end at once with this status
 *     --kill            end at once by SIGKILL
 *     --term=N          end with this status on SIGTERM and SIGQUIT, and not by the signal
 *     --write=FILE      add a line to a file first
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int term_status;

static void end(int number) { _exit(term_status); }

static char *option(char **words, const char *name) {
    size_t length = strlen(name);
    for (; *words; words++)
        if (!strncmp(*words, name, length)) return *words + length;
    return NULL;
}

/* What a process finds beside its words, variables and folder: descriptors, signals, limits, power, priority. */
static int inherited(char *body) {
    const char *files[] = {"/proc/self/limits", "/proc/self/oom_score_adj", "/proc/self/status"};
    const char *kept[] = {"SigBlk", "SigIgn", "Umask", "CapInh", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Groups"};
    char line[512];
    int length = 0;
    for (int number = 0; number < 1024; number++)
        if (fcntl(number, F_GETFD) != -1) length += sprintf(body + length, "descriptor %d %d\n", number, isatty(number));
    length += sprintf(body + length, "priority %d\n", getpriority(PRIO_PROCESS, 0));
    for (int each = 0; each < 3; each++) {
        FILE *file = fopen(files[each], "r");
        while (file && fgets(line, sizeof line, file)) {
            int is_kept = each < 2;
            for (int name = 0; name < 9; name++) is_kept |= !strncmp(line, kept[name], strlen(kept[name]));
            if (is_kept) length += sprintf(body + length, "%s", line);
        }
        if (file) fclose(file);
    }
    return length;
}

int main(int count, char **words, char **environment) {
    char *text, folder[4096], *body = malloc(1 << 20);
    int found = inherited(body);
    if ((text = option(words, "--exit="))) return atoi(text);
    if (option(words, "--kill")) { /* PID 1 cannot be killed from inside: then it says what its end would have said */
        raise(SIGKILL);
        return 128 + SIGKILL;
    }
    if ((text = option(words, "--write="))) {
        FILE *file = fopen(text, "a");
        if (!file || fputs("line\n", file) < 0 || fclose(file)) return 9;
    }
    if ((text = option(words, "--term="))) {
        term_status = atoi(text);
        signal(SIGTERM, end);
        signal(SIGQUIT, end);
    } else if (getpid() == 1) { /* as PID 1 no signal has its default action */
        term_status = 128 + SIGTERM;
        signal(SIGTERM, end);
    }
    signal(SIGPIPE, SIG_IGN);
    if (!(text = option(words, "--port=")) && !(text = getenv("PORT"))) text = "9000";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(text))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128)) return 8;
    for (;;) {
        int connection = accept(listener, NULL, NULL), length = found;
        char request[65536], head[128];
        if (read(connection, request, sizeof request) > 0) {
            for (char **word = words; *word; word++) length += sprintf(body + length, "word %s\n", *word);
            for (char **each = environment; *each; each++) length += sprintf(body + length, "variable %s\n", *each);
            length += sprintf(body + length, "folder %s\n", getcwd(folder, sizeof folder));
            length += sprintf(body + length, "user %d:%d\n", getuid(), getgid());
            if ((text = option(words, "--write="))) {
                FILE *file = fopen(text, "r");
                while (file && fgets(head, sizeof head, file)) length += sprintf(body + length, "wrote %s", head);
                if (file) fclose(file);
            }
            int front = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", length);
            if (write(connection, head, front) < 0 || write(connection, body, length) < 0) perror("write");
        }
        close(connection);
    }
}
