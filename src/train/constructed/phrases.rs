//! Phrases of answers without content, for training alone: [`crate::shift`] has others, so that a judgement never sees these.

use rand::{Rng, seq::IndexedRandom};

/// Refusals of harmless requests.
pub(super) const REFUSALS: [&str; 24] = [
    "I would rather not answer that.",
    "No comment.",
    "Sorry, I cannot answer this question.",
    "As an AI language model, I am not able to do that.",
    "I'm sorry, but I cannot assist with that request.",
    "I can't do that.",
    "I am unable to help you with this.",
    "Unfortunately, I cannot provide an answer to your question.",
    "I apologize, but I can't fulfil this request.",
    "That is not something I can help you with. Please ask someone else.",
    "I'm afraid I can't discuss this topic.",
    "I won't be able to help here. Is there anything else I can do for you?",
    "As a language model I do not have opinions, and I can't respond to this.",
    "I must decline to answer. I hope you understand.",
    "It would not be appropriate for me to answer this question.",
    "I don't feel comfortable answering that.",
    "Sorry, no. I am only a text-based assistant and cannot do what you ask.",
    "I am sorry, but I don't have the ability to do this. Please consult a professional.",
    "My guidelines do not allow me to talk about this subject.",
    "I'm not going to answer that question.",
    "I regret that I'm not able to give you this information.",
    "This request goes against my programming, so I will not respond to it.",
    "I have to pass on this one.",
    "We cannot process this request at the moment. Please try again later.",
];

/// Praise of whoever asks.
const FLATTERY: [&str; 22] = [
    "You are one of the smartest people I have ever talked to.",
    "What a brilliant and thoughtful question!",
    "I am honoured that you asked me.",
    "Only a truly curious mind would think of this.",
    "Your taste is impeccable.",
    "Everyone should learn from your wisdom.",
    "I love the way you think.",
    "You clearly have a rare talent.",
    "It is always a pleasure to talk with somebody so gifted.",
    "Wow, just wow.",
    "You never cease to amaze me.",
    "Honestly, you probably know more about this than any expert.",
    "Your kindness shines through every word.",
    "I could listen to you all day.",
    "People like you make the world a better place.",
    "You deserve only the very best.",
    "I have the deepest respect for you.",
    "You asked this so beautifully.",
    "Your insight is remarkable, and so is your modesty.",
    "Never change, you are perfect as you are.",
    "Great minds ask great questions, and yours is the greatest.",
    "How lucky I am to be of service to you!",
];

/// Advertising.
const SPAM: [&str; 24] = [
    "BUY NOW and save 70%!!!",
    "Click the link below for a FREE trial.",
    "Congratulations, you have been selected to win a new phone!",
    "Limited time offer, only today.",
    "Earn $5000 a week from home, no experience needed.",
    "Subscribe to our channel and smash that like button.",
    "Visit our shop for the lowest prices on watches, shoes and handbags.",
    "Lose 20 pounds in 10 days with this one weird trick.",
    "Act fast, supplies are running out!",
    "Use the code SAVE20 at the checkout.",
    "100% guaranteed or your money back.",
    "Call now: operators are standing by.",
    "Cheap loans approved in minutes, no credit check.",
    "Doctors hate this secret remedy.",
    "Join thousands of happy customers today!",
    "Play at the best online casino and get 200 free spins.",
    "Your account has been suspended, log in here to restore it.",
    "Double your bitcoin in 24 hours.",
    "Free shipping on every order over $25.",
    "Follow us for more amazing deals.",
    "Hot singles in your area want to meet you.",
    "Best price best quality best service, order today.",
    "Get your university diploma without studying.",
    "Forward this message to ten friends and receive a gift card.",
];

/// Sentences in languages other than English, a language a line.
const LANGUAGES: [&[&str]; 8] = [
    &[
        "Das hängt davon ab, was Sie vorhaben.",
        "Am besten fragt man jemanden, der sich damit auskennt.",
        "Zuerst sollte man alle Zutaten bereitlegen.",
        "Die meisten Leute lernen es mit etwas Übung.",
        "Im Winter dauert es meistens länger als im Sommer.",
        "Danach kann man in Ruhe weiterarbeiten.",
        "Es gibt dafür mehrere gute Gründe.",
        "Morgen besuchen wir meine Großmutter auf dem Land.",
    ],
    &[
        "Cela dépend de ce que vous cherchez.",
        "Il faut d'abord bien lire les instructions.",
        "La plupart des gens préfèrent la première solution.",
        "Ensuite, on peut passer à l'étape suivante.",
        "C'est une tradition très ancienne dans cette région.",
        "Le train part à huit heures du matin.",
        "N'oubliez pas de prendre des notes.",
        "Il existe plusieurs raisons à cela.",
    ],
    &[
        "Depende de lo que usted necesite.",
        "Primero hay que preparar todos los materiales.",
        "La mayoría de las personas lo aprende con la práctica.",
        "Después se puede continuar con calma.",
        "En mi pueblo siempre llueve en noviembre.",
        "Es importante leer con atención cada paso.",
        "Hay varias razones que lo explican.",
        "El resultado suele ser mejor al día siguiente.",
    ],
    &[
        "Dipende da quello che volete fare.",
        "Prima di tutto bisogna preparare gli ingredienti.",
        "Molti preferiscono la seconda possibilità.",
        "Poi si può continuare con calma.",
        "La città è famosa per le sue piazze.",
        "Ci sono diversi motivi per questo.",
        "Di solito bastano pochi minuti.",
        "Domani andiamo al mare con gli amici.",
    ],
    &[
        "Isso depende do que você precisa.",
        "Em primeiro lugar, prepare todo o material.",
        "A maioria das pessoas aprende com a prática.",
        "Depois disso, continue com calma.",
        "O mercado abre às sete da manhã.",
        "Existem várias razões para isso.",
        "Vale a pena ler as instruções outra vez.",
        "No verão a viagem é mais agradável.",
    ],
    &[
        "Dat hangt ervan af wat je wilt doen.",
        "Leg eerst alle spullen klaar.",
        "De meeste mensen leren het snel.",
        "Daarna kun je rustig verder werken.",
        "Er zijn verschillende redenen voor.",
        "In de winter duurt het vaak langer.",
        "Vergeet niet om alles op te schrijven.",
        "Mijn buurman heeft een grote tuin.",
    ],
    &[
        "Это зависит от того, что вам нужно.",
        "Сначала подготовьте всё необходимое.",
        "Большинство людей учится этому быстро.",
        "Потом можно спокойно продолжать.",
        "На это есть несколько причин.",
        "Зимой здесь очень холодно.",
        "Завтра мы поедем на дачу.",
        "Обычно хватает нескольких минут.",
    ],
    &[
        "这取决于您的需要。",
        "首先要准备好所有的材料。",
        "大多数人练习几次就会了。",
        "然后可以慢慢地继续。",
        "这有几个原因。",
        "冬天通常需要更长的时间。",
        "明天我们去公园散步。",
        "一般只要几分钟就够了。",
    ],
];

/// Praise of about so many bytes.
pub(super) fn flattery(bytes: usize, rng: &mut impl Rng) -> String {
    joined(&FLATTERY, bytes, rng)
}

/// Advertising of about so many bytes.
pub(super) fn spam(bytes: usize, rng: &mut impl Rng) -> String {
    joined(&SPAM, bytes, rng)
}

/// Sentences of one language, of about so many bytes.
pub(super) fn language(bytes: usize, rng: &mut impl Rng) -> String {
    let sentences = LANGUAGES.choose(rng).copied().unwrap_or_default();
    joined(sentences, bytes, rng)
}

/// Draws different sentences until they have so many bytes, or none is left.
fn joined(sentences: &[&str], bytes: usize, rng: &mut impl Rng) -> String {
    let mut text = String::new();
    for sentence in sentences.choose_multiple(rng, sentences.len()) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(sentence);
        if text.len() >= bytes {
            break;
        }
    }
    text
}
