"""Chat templates written for this project in the style of well-known ones, and the cases that make_chat.py renders with them."""

from conversations import talk

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

TEMPLATES = {
    "chatml": """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    # Headers around roles, trimmed contents, BOS in the template.
    "llama3": """\
{{- bos_token }}
{%- set ns = namespace(system=none) %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- if ns.system is not none or tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
    {%- if tools %}
        {{- 'Tools:\\n' }}
        {%- for tool in tools %}
            {{- tool | tojson(indent=2) ~ ('' if loop.last else ',') ~ '\\n' }}
        {%- endfor %}
    {%- endif %}
    {{- ns.system or '' }}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    # No system role, strict order of roles, EOS only after assistant messages.
    "mistral": """\
{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('user and assistant must take turns, beginning with user') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{ ' ' + message['content'].strip() + eos_token }}
{%- else %}
{{ raise_exception('unknown role ' + message['role']) }}
{% endif %}{% endfor %}""",
    # Drops the reasoning of earlier turns. The assistant's turns are generation blocks.
    "thinking": """\
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not message.content.startswith('<result>') %}
        {%- set ns.last_user = messages | length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'comment' %}{% continue %}{% endif %}
    {{- '<|' ~ message.role ~ '|>\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {%- set content = message.content %}
            {%- if '</think>' in content and loop.index0 < ns.last_user %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
            {{- content ~ '<|end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content ~ '<|end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    # A macro, filters, dictionaries and Python's string methods.
    "macro": """\
{%- macro turn(message, index) -%}
[{{ index }}:{{ message.get('name', message['role']) | upper }}] {{ message['content'].rstrip().replace('\\t', '    ').title() if message['role'] == 'system' else message['content'] }}
{%- endmacro -%}
{% for message in messages | selectattr('role', 'in', ['system', 'user', 'assistant']) %}
{{ turn(message, loop.index) }}{{ eos_token if loop.last and not add_generation_prompt else '\\n' }}
{%- endfor %}
{%- for key, value in (tools or [{}])[0].items() %}
{{ key }}={{ value | tojson }};
{%- endfor -%}
{{ '[ASSISTANT]' if add_generation_prompt }}
""",
}

TOOLS = [{"type": "function", "function": {"name": "lookup", "description": "Finds a term’s “official” form <b>&</b>.",
                                           "parameters": {"type": "object", "properties": {"term": {"type": "string"}},
                                                          "required": ["term"], "strict": True, "limit": 3, "rate": 0.5,
                                                          "default": None}}}]

CONVERSATIONS = {
    "plain": talk("One?", "Two.", "Three?", "Four."),
    "system": talk("Hi", "Hello.", system="be brief,\tplease.  "),
    "spaces": talk("  Left\n", " Both \n\n", "Right  ", "\n None"),
    "unicode": talk("Grüße aus 東京 🙂", "👩‍👩‍👧‍👦 naïve Ångström ﬁ"),
    "thoughts": talk("1?", "<think>\nhm\n</think>\n\none", "2?", "<think>\noh\n</think>\n\ntwo"),
    "empty": [],
    "two_users": talk("One?") + talk("Two?", "Both."),
    "other_role": talk("One?", "Two.") + [{"role": "comment", "content": "aside", "name": "editor"}],
}
REFUSED = {("mistral", "system"), ("mistral", "two_users"), ("mistral", "other_role")}


def cases():
    for template in TEMPLATES:
        for name, messages in CONVERSATIONS.items():
            for tools in [None, TOOLS] if template in ("llama3", "macro") and name in ("plain", "system") else [None]:
                for prompt in (False, True):
                    yield {"template": template, "name": name, "messages": messages, "tools": tools,
                           "add_generation_prompt": prompt, "refused": (template, name) in REFUSED}


CASES = list(cases())
